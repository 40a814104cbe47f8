use super::super::{Core, Pu};
use super::*;

/// Cores as (NUMA node, hardware threads); a negative thread is not allowed (`!n`).
fn machine(cores: &[(usize, &[isize])]) -> Machine {
    let pu = |&index: &isize| Pu {
        os_index: if index < 0 { !index } else { index } as usize,
        allowed: index >= 0,
    };
    Machine {
        cores: cores
            .iter()
            .map(|&(numa_node, pus)| Core {
                numa_node,
                pus: pus.iter().map(pu).collect(),
            })
            .collect(),
    }
}

/// Two sockets of two cores with SMT; the system numbers the siblings after all first threads.
fn two_sockets() -> Machine {
    machine(&[(0, &[0, 4]), (1, &[1, 5]), (0, &[2, 6]), (1, &[3, 7])])
}

fn config(shards: Option<usize>, cores: Option<&[usize]>) -> Config {
    Config {
        shards,
        cores: cores.map(<[usize]>::to_vec),
        ..Config::default()
    }
}

fn cores_of(plan: &Plan) -> Vec<usize> {
    plan.shards.iter().map(|place| place.core).collect()
}

#[test]
fn one_shard_per_physical_core_node_by_node() {
    let plan = plan_on(&two_sockets(), &config(None, None)).unwrap();
    assert_eq!(cores_of(&plan), [0, 2, 1, 3]);
    assert_eq!(
        plan.shards
            .iter()
            .map(|place| place.numa_node)
            .collect::<Vec<_>>(),
        [0, 0, 1, 1]
    );
    assert_eq!(plan.shards[1].smt_siblings, [6]);
    assert!(
        plan.shards
            .iter()
            .enumerate()
            .all(|(index, place)| place.shard == index)
    );
    assert!(!plan.oversubscribed);
    assert_eq!(plan.spare, [4, 5, 6, 7]);
    assert_eq!(
        plan.wait_us(&RingConfig::default()),
        RingConfig::default().wait_us
    );
}

#[test]
fn few_shards_stay_on_one_node_and_leave_whole_cores_first() {
    let plan = plan_on(&two_sockets(), &config(Some(2), None)).unwrap();
    assert_eq!(cores_of(&plan), [0, 2]);
    assert_eq!(plan.spare, [1, 3, 5, 7, 4, 6]);
}

#[test]
fn more_shards_than_cores_go_round_over_siblings_first() {
    let plan = plan_on(&two_sockets(), &config(Some(10), None)).unwrap();
    assert_eq!(cores_of(&plan), [0, 2, 1, 3, 4, 6, 5, 7, 0, 2]);
    assert!(plan.oversubscribed);
    assert_eq!(plan.wait_us(&RingConfig::default()), 0);
    assert!(plan.spare.is_empty());
    assert!(plan.to_string().contains("none waits busily"), "{plan}");
}

#[test]
fn holes_in_the_cpuset_are_left_out() {
    // Core 0 is not ours; of core 1 only the sibling is.
    let machine = machine(&[(0, &[!0, !4]), (0, &[!1, 5]), (0, &[2, 6]), (0, &[3, !7])]);
    let plan = plan_on(&machine, &config(None, None)).unwrap();
    assert_eq!(cores_of(&plan), [5, 2, 3]);
    assert_eq!(plan.shards[0].smt_siblings, [1]);
    assert_eq!(plan.spare, [6]);
    assert!(
        plan.to_string().contains("3 shards; 3 cores allowed of 4"),
        "{plan}"
    );
    // The second round has only one seat, then it starts over.
    let plan = plan_on(&machine, &config(Some(5), None)).unwrap();
    assert_eq!(cores_of(&plan), [5, 2, 3, 6, 5]);
}

#[test]
fn a_single_core_takes_all_shards() {
    let machine = machine(&[(0, &[0])]);
    let plan = plan_on(&machine, &config(None, None)).unwrap();
    assert_eq!((cores_of(&plan), plan.oversubscribed), (vec![0], false));
    let plan = plan_on(&machine, &config(Some(3), None)).unwrap();
    assert_eq!(
        (cores_of(&plan), plan.oversubscribed),
        (vec![0, 0, 0], true)
    );
}

#[test]
fn a_list_is_taken_in_its_order() {
    let plan = plan_on(&two_sockets(), &config(None, Some(&[3, 0, 2]))).unwrap();
    assert_eq!(cores_of(&plan), [3, 0, 2]);
    assert!(!plan.oversubscribed);
    assert_eq!(plan.spare, [1, 5, 4, 6, 7]);
    let plan = plan_on(&two_sockets(), &config(Some(2), Some(&[3, 0, 2]))).unwrap();
    assert_eq!(cores_of(&plan), [3, 0]);
    let plan = plan_on(&two_sockets(), &config(Some(4), Some(&[3, 0]))).unwrap();
    assert_eq!(
        (cores_of(&plan), plan.oversubscribed),
        (vec![3, 0, 3, 0], true)
    );
}

#[test]
fn listed_siblings_share_a_core() {
    let plan = plan_on(&two_sockets(), &config(None, Some(&[0, 4]))).unwrap();
    assert_eq!(cores_of(&plan), [0, 4]);
    assert!(plan.oversubscribed);
}

#[test]
fn a_wrong_list_names_every_wrong_core() {
    let machine = machine(&[(0, &[0, 1]), (0, &[!2, !3])]);
    let error = plan_on(&machine, &config(None, Some(&[0, 2, 3, 9]))).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cores: 9 does not exist on this machine; 2,3 are not allowed to this process (cpuset or \
         taskset); allowed here: 0,1"
    );
}

#[test]
fn no_core_at_all_is_an_error() {
    let error = plan_on(&machine(&[(0, &[!0])]), &config(None, None)).unwrap_err();
    assert!(matches!(error, TopologyError::NoCore));
    assert!(error.to_string().contains("taskset"));
}

#[test]
fn the_table_can_be_read() {
    let plan = plan_on(&two_sockets(), &config(Some(2), None)).unwrap();
    assert_eq!(
        plan.to_string(),
        [
            "2 shards; 4 cores allowed",
            " shard  core  NUMA node  SMT siblings",
            "     0     0          0  4",
            "     1     2          0  6",
            "Other threads: 1,3,5,7,4,6.",
        ]
        .join("\n")
    );
}

#[test]
fn a_long_table_is_shortened_in_the_middle() {
    let rows = |shards| {
        let plan = plan_on(&two_sockets(), &config(Some(shards), None)).unwrap();
        let text = plan.to_string();
        let rows: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("  "))
            .map(str::to_owned)
            .collect();
        rows
    };
    assert_eq!(rows(25).len(), 25);
    assert!(rows(25)[16].starts_with("    16  "));
    let long = rows(1024);
    assert_eq!(long.len(), 25);
    assert!(long[15].starts_with("    15  "));
    assert_eq!(long[16], "   ...  1000 more");
    assert!(long[17].starts_with("  1016  ") && long[24].starts_with("  1023  "));
}
