# shellcheck shell=bash
# What the scripts beside this file share: the tree that they work on, values with their rules, and the
# state from which `revert` restores. Source it; it changes nothing by itself.
#
# Every path in here is a path below the root: /proc/sys/net/core/somaxconn is $root_dir/proc/sys/...
# on disk, and $root_dir is empty on the live host.

# An error inside of $(…) ends the script as well.
shopt -s inherit_errexit

script=$(realpath "$0")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")

root_dir='' # --root, without a slash at its end; empty: the live host
apply=0     # --apply
state=/var/lib/ringwire-tuning

connections=1000000 # --connections
allowed_cores=''    # what --shard-cores leaves to the unit

note() { printf '%s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Prints the comment block at the top of the calling script, without its `#`s: the help text.
print_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$script"; }

# need_value OPTION ARGUMENT...: dies unless an argument follows the option.
need_value() { [[ $# -ge 2 ]] || die "$1 needs a value ($(basename "$script") --help)"; }

# need_number OPTION VALUE LEAST MOST
need_number() {
    # Nine digits at most: no overflow in what is computed from it.
    [[ $2 =~ ^[1-9][0-9]{0,8}$ && $2 -ge $3 && $2 -le $4 ]] || die "$1 must be a number from $3 to $4, and is '$2'"
}

# ---- the tree ------------------------------------------------------------------------------------

# use_root DIR: works below DIR, which must look like a root, from now on.
use_root() {
    [[ -d $1 ]] || die "--root $1: there is no such folder"
    root_dir=$(realpath "$1")
    [[ $root_dir != / ]] || die "--root / is the live host: leave --root away"
    [[ -d $root_dir/proc && -d $root_dir/etc ]] ||
        die "--root $1: it has no folders proc and etc, so it is no copy of a host's files"
}

# Dies unless this process may change what it works on.
need_permission() {
    [[ $apply -eq 1 && -z $root_dir ]] || return 0
    [[ $EUID -eq 0 ]] || die "changing this host takes root; without --apply nothing is changed, and it is only shown"
}

# inside PATH: dies where a link leads the file's folder out of the root.
inside() {
    local folder
    [[ -n $root_dir ]] || return 0
    folder=$(realpath --canonicalize-missing "$root_dir${1%/*}")
    [[ $folder == "$root_dir" || $folder == "$root_dir"/* ]] ||
        die "$1 lies outside of --root: a link leads to $folder"
}

# squeeze TEXT: sets REPLY to the text with single spaces, as values are compared.
squeeze() {
    local words
    read -r -d '' -a words <<<"$1" || true
    REPLY="${words[*]}"
}

# canonical PATH TEXT: sets REPLY to the text of a kernel's file in the form in which it is compared.
canonical() {
    squeeze "$2"
    # Masks of processors are written in groups, with zeros in front: 00000000,00ff0000.
    if [[ $1 == *_cpus ]]; then
        REPLY=${REPLY//,/}
        REPLY=${REPLY#"${REPLY%%[!0]*}"}
        REPLY=${REPLY:-0}
    fi
}

# read_value PATH: sets REPLY to a kernel file's value; fails where there is none or it can't be read.
read_value() {
    local text
    [[ -f $root_dir$1 ]] || return 1
    { text=$(<"$root_dir$1"); } 2>/dev/null || return 1
    canonical "$1" "$text"
}

# changeable PATH: whether the kernel lets anybody write it. In a network namespace some of the host's
# values can be seen and not changed.
changeable() {
    local mode
    mode=$(stat --format=%a "$root_dir$1")
    [[ $((0$mode & 0200)) -ne 0 ]]
}

sysctl_path() { REPLY=/proc/sys/${1//.//}; }

# The host's memory in KiB.
memory_kib() {
    awk '$1 == "MemTotal:" && $2 ~ /^[0-9]+$/ { print $2; found = 1; exit } END { exit !found }' "$root_dir/proc/meminfo" 2>/dev/null ||
        die "$root_dir/proc/meminfo does not say MemTotal"
}

# fingerprint FILE: sets REPLY to what stands there (a path on disk), for comparison.
fingerprint() {
    local sum
    if [[ -L $1 ]]; then
        REPLY="link $(readlink "$1")"
    elif [[ -f $1 ]]; then
        sum=$(sha256sum <"$1")
        REPLY="sha256 ${sum%% *}"
    elif [[ -e $1 ]]; then
        die "$1 is neither a file nor a link: move it out of the way"
    else
        REPLY=absent
    fi
}

# ---- values and their rules ----------------------------------------------------------------------

keys=()              # in the order of the template
declare -A wanted=() # key -> value
declare -A rule=()   # key -> at-least, at-most, widen or exactly

# scaled VALUE: sets REPLY to a value that is meant for a million connections, for $connections.
# Below a million it stays: it is a bound that costs nothing until it is used.
scaled() {
    REPLY=$1
    [[ $connections -le 1000000 ]] || REPLY=$(($1 * ((connections + 9999) / 10000) / 100))
}

# tcp_mem: what the stack may use for data on its way, in pages. Its pressure point is one page per
# connection and a quarter more: a broadcast costs a page per connection until it is acknowledged.
# Never more than a quarter of the memory; the other two in the proportions of the kernel's own.
tcp_mem() {
    local page_bytes kib pressure most
    page_bytes=$(getconf PAGESIZE)
    kib=$(memory_kib)
    pressure=$((connections * 5 / 4))
    most=$((kib / (page_bytes / 1024) / 4))
    [[ $pressure -le $most ]] || pressure=$most
    REPLY="$((pressure * 3 / 4)) $pressure $((pressure * 3 / 2))"
}

# load_template: reads keys, values and rules from sysctl.d/90-ringwire.conf, for $connections.
load_template() {
    local line key value this_rule='' scale=0
    keys=()
    while IFS= read -r line; do
        case $line in
        '# Rule: '*)
            read -r this_rule scale <<<"${line#'# Rule: '}"
            ;;
        '' | '#' | '# '*) ;;
        *)
            # "-": not every kernel has it; "#": computed here.
            squeeze "${line%%=*}"
            key=${REPLY#[-#]}
            squeeze "${line#*=}"
            value=$REPLY
            [[ $this_rule =~ ^(at-least|at-most|widen|exactly)$ ]] || die "sysctl.d/90-ringwire.conf: $key has no rule"
            if [[ $key == net.ipv4.tcp_mem ]]; then
                tcp_mem
                value=$REPLY
            elif [[ ${scale:-} == scaled ]]; then
                scaled "$value"
                value=$REPLY
            fi
            keys+=("$key")
            wanted[$key]=$value
            rule[$key]=$this_rule
            this_rule='' scale=''
            ;;
        esac
    done <"$here/sysctl.d/90-ringwire.conf"
    [[ ${#keys[@]} -gt 0 ]] || die "$here/sysctl.d/90-ringwire.conf has no values"
}

# larger A B: whether A > B, for whole numbers of any length (fs.file-max can have 19 digits, and
# tcp_notsent_lowat counts without a sign).
larger() {
    [[ ${#1} -gt ${#2} ]] || [[ ${#1} -eq ${#2} && $1 > $2 ]]
}
smaller() { larger "$2" "$1"; }

# target KEY NOW: sets REPLY to the value that the key is to have, given what it has. What is already
# better than wanted is kept.
target() {
    local -a now want
    local i better
    read -r -a now <<<"$2"
    read -r -a want <<<"${wanted[$1]}"
    # A value of another form than expected (-1, another number of fields) is replaced as a whole.
    if [[ ${#now[@]} -eq ${#want[@]} && $2 =~ ^[0-9\ ]+$ ]]; then
        for i in "${!want[@]}"; do
            better=larger
            case ${rule[$1]} in
            exactly) continue ;;
            at-most) better=smaller ;;
            widen) [[ $i -gt 0 ]] || better=smaller ;; # a range: its beginning at most, its end at least
            esac
            ! "$better" "${now[i]}" "${want[i]}" || want[i]=${now[i]}
        done
    fi
    REPLY="${want[*]}"
}

# ---- lists of processors -------------------------------------------------------------------------

# expand LIST: sets REPLY to the numbers of a list such as 0-3,8, in ascending order.
expand() {
    local part parts number first last found=()
    IFS=, read -r -a parts <<<"$1"
    for part in "${parts[@]}"; do
        [[ $part =~ ^([0-9]{1,5})(-([0-9]{1,5}))?$ ]] ||
            die "'$1' is no list of processors such as 0-3,8 ('$part')"
        first=$((10#${BASH_REMATCH[1]}))
        last=$((10#${BASH_REMATCH[3]:-$first}))
        [[ $first -le $last && $last -lt 8192 ]] || die "'$1' is no list of processors such as 0-3,8 ('$part')"
        for ((number = first; number <= last; number++)); do found[number]=1; done
    done
    REPLY="${!found[*]}"
}

# fold NUMBER...: sets REPLY to a list such as 0-3,8 of numbers in ascending order.
fold() {
    local number first='' last=''
    REPLY=''
    for number in "$@" end; do
        if [[ -n $last && $number != end && $number -eq $((last + 1)) ]]; then
            last=$number
            continue
        fi
        if [[ -n $first ]]; then
            REPLY+=,$first
            [[ $first -eq $last ]] || REPLY+=-$last
        fi
        first=$number last=$number
    done
    REPLY=${REPLY#,}
}

processors=()           # those that are online, ascending
declare -A siblings=()  # processor -> the hardware threads of its core that are online, itself included
declare -A numa_node=() # processor -> its NUMA node

# load_processors: reads the host's topology.
load_processors() {
    local number folder=$root_dir/sys/devices/system path sibling all
    [[ -r $folder/cpu/online ]] || die "$folder/cpu/online is missing: the processors are not known"
    expand "$(<"$folder/cpu/online")"
    read -r -a processors <<<"$REPLY"
    all=" $REPLY "
    for number in "${processors[@]}"; do
        numa_node[$number]=0
        siblings[$number]=$number
        path=$folder/cpu/cpu$number/topology/thread_siblings_list
        [[ -r $path ]] || continue
        expand "$(<"$path")"
        siblings[$number]=''
        for sibling in $REPLY; do
            [[ $all != *" $sibling "* ]] || siblings[$number]+=" $sibling"
        done
    done
    for path in "$folder"/node/node*/cpulist; do
        # A node without processors has an empty list.
        [[ -r $path && -n $(<"$path") ]] || continue
        expand "$(<"$path")"
        path=${path%/cpulist}
        for number in $REPLY; do
            # shellcheck disable=SC2034 # used by irq-affinity
            numa_node[$number]=${path##*/node}
        done
    done
}

# expand_online LIST: like expand; dies unless all processors of the list are online.
expand_online() {
    local number
    expand "$1"
    for number in $REPLY; do
        [[ -n ${siblings[$number]:-} ]] ||
            die "processor $number of '$1' is not online; there are ${processors[*]}"
    done
}

# with_siblings LIST: sets REPLY to the list, completed by the SMT siblings.
with_siblings() {
    local number sibling found=()
    expand_online "$1"
    for number in $REPLY; do
        for sibling in ${siblings[$number]}; do found[sibling]=1; done
    done
    fold "${!found[@]}"
}

# ---- the files that are installed ----------------------------------------------------------------

# Paths below the root, in the order in which they are written, with the template of each.
# shellcheck disable=SC2034 # used by the scripts that source this file
sysctl_file=/etc/sysctl.d/90-ringwire.conf
limits_file=/etc/security/limits.d/90-ringwire.conf
unit_file=/etc/systemd/system/ringwire.service
affinity_file=/etc/systemd/system/ringwire.service.d/10-cpu-affinity.conf

# render PATH TO: writes what is to stand in the file at PATH into the file TO.
render() {
    local files from=limits.d/90-ringwire.conf
    case $1 in
    "$sysctl_file") render_sysctl >"$2" ;;
    "$limits_file" | "$unit_file")
        # Descriptors: a tenth more than connections.
        scaled 1100000
        files=$REPLY
        [[ $1 != "$unit_file" ]] || from=systemd/ringwire.service
        sed "/^[^#]/s/\b1100000\b/$files/" "$here/$from" >"$2"
        ;;
    "$affinity_file")
        sed "s/^#CPUAffinity=.*/CPUAffinity=$allowed_cores/" "$here/systemd/ringwire.service.d/10-cpu-affinity.conf" >"$2"
        ;;
    esac
}

# The template with the values that this host is to have: what is already better stays better at the
# next start, too.
render_sysctl() {
    local line key now prefix
    while IFS= read -r line; do
        if [[ $line == '' || $line == '#' || $line == '# '* ]]; then
            printf '%s\n' "$line"
            continue
        fi
        prefix=''
        [[ $line != -* ]] || prefix=-
        squeeze "${line%%=*}"
        key=${REPLY#[-#]}
        sysctl_path "$key"
        now=''
        ! read_value "$REPLY" || now=$REPLY
        target "$key" "$now"
        printf '%s%s = %s\n' "$prefix" "$key" "$REPLY"
    done <"$here/sysctl.d/90-ringwire.conf"
}

# ---- the state -----------------------------------------------------------------------------------
#
# $state/entries has a line per thing that is changed, its fields separated by tabs:
#   value  PATH  NEW       a file of the kernel; its bytes before are in $state/old/LINE
#   file   PATH  NEW       a file or link; a copy of it is in $state/old/LINE
#   absent PATH  NEW       a file that was not there
#   dir    PATH            a folder that was not there
#   done   PATH            restored, while others were not
# NEW is what it was given, as read_value or fingerprint tell it. $state/options has what apply was
# called with. Both are replaced as a whole, so that an interruption leaves the one or the other.

entry_kind=() entry_path=() entry_new=()
declare -A entry_of=() # path -> index

have_state() { [[ -f $root_dir$state/entries ]]; }

load_state() {
    local kind path new
    entry_kind=() entry_path=() entry_new=() entry_of=()
    have_state || return 0
    while IFS=$'\t' read -r kind path new; do
        entry_of[$path]=${#entry_path[@]}
        entry_kind+=("$kind")
        entry_path+=("$path")
        entry_new+=("$new")
    done <"$root_dir$state/entries"
}

save_entries() {
    local i file=$root_dir$state/entries
    for i in "${!entry_path[@]}"; do
        printf '%s\t%s\t%s\n' "${entry_kind[i]}" "${entry_path[i]}" "${entry_new[i]}"
    done >"$file.new"
    sync "$file.new" "$root_dir$state/old"
    mv "$file.new" "$file"
}

# make_folder PATH: creates the folder and those above it, and remembers which were not there.
made_folders=()
make_folder() {
    [[ ! -d $root_dir$1 ]] || return 0
    make_folder "${1%/*}"
    inside "$1/x"
    mkdir --mode=0755 "$root_dir$1"
    made_folders+=("$1")
}

# add_entry KIND PATH NEW: a first state that was saved is kept; only NEW is updated.
add_entry() {
    local index=${entry_of[$2]:-}
    if [[ -n $index && ${entry_kind[index]} != "done" ]]; then
        entry_new[index]=$3
        return 0
    fi
    [[ -n $index ]] || index=${#entry_path[@]}
    entry_of[$2]=$index
    entry_kind[index]=$1
    entry_path[index]=$2
    entry_new[index]=$3
    case $1 in
    # Not cp for the kernel's files: they say that they have no bytes.
    value) cat "$root_dir$2" >"$root_dir$state/old/$index" ;;
    file) cp --archive --no-target-directory "$root_dir$2" "$root_dir$state/old/$index" ;;
    esac
}

# The changes that a script has decided on.
change_kind=() change_path=() change_new=() # the value, or the file that has the new content

plan_change() {
    inside "$2"
    change_kind+=("$1")
    change_path+=("$2")
    change_new+=("$3")
}

# save_changes: writes down what is there before any of the changes.
save_changes() {
    local i path new
    load_state
    [[ ${#change_path[@]} -gt 0 ]] || return 0
    inside "$state/x"
    make_folder "$state"
    mkdir -p "$root_dir$state/old"
    chmod 0700 "$root_dir$state"
    for i in "${!change_path[@]}"; do
        path=${change_path[i]} new=${change_new[i]}
        if [[ ${change_kind[i]} == value ]]; then
            add_entry value "$path" "$new"
        else
            make_folder "${path%/*}"
            fingerprint "$new"
            new=$REPLY
            fingerprint "$root_dir$path"
            if [[ $REPLY == absent ]]; then
                add_entry absent "$path" "$new"
            else
                add_entry file "$path" "$new"
            fi
        fi
    done
    for path in "${made_folders[@]}"; do
        add_entry dir "$path" ''
    done
    save_entries
}

# write_value PATH VALUE: sets REPLY to what the kernel made of it, or to why it refused.
write_value() {
    local error
    if ! error=$({ printf '%s\n' "$2" >"$root_dir$1"; } 2>&1); then
        REPLY=${error##*: }
        return 1
    fi
    read_value "$1"
}

# put_file PATH FROM: replaces the file as a whole.
put_file() {
    local temporary
    temporary=$(mktemp "$root_dir$1.XXXXXX")
    cat "$2" >"$temporary"
    chmod 0644 "$temporary"
    mv --no-target-directory "$temporary" "$root_dir$1"
}

# make_changes: carries the planned changes out; fails when one of them was refused.
make_changes() {
    local i path failed=0
    [[ ${#change_path[@]} -gt 0 ]] || return 0
    for i in "${!change_path[@]}"; do
        path=${change_path[i]}
        if [[ ${change_kind[i]} == file ]]; then
            put_file "$path" "${change_new[i]}"
        elif write_value "$path" "${change_new[i]}"; then
            # The kernel may round: revert compares with what it made of it.
            entry_new[${entry_of[$path]}]=$REPLY
        else
            note "refused: $path = ${change_new[i]}: $REPLY"
            failed=$((failed + 1))
        fi
    done
    save_entries
    [[ $failed -eq 0 ]]
}
