//! Lists of cores as `taskset` and the kernel write them: `0,2-5`.

use super::limits::MAX_CORE;

/// Parses a list such as `0,2-5` into `[0, 2, 3, 4, 5]`, in the order given: shard 0 goes to the
/// first. Whether these cores exist on this machine is the topology's business.
///
/// # Errors
/// Says which item is wrong: not a number or range, a range that runs backwards, an index above
/// [`MAX_CORE`], or a core that is listed twice.
pub fn parse(text: &str) -> Result<Vec<usize>, String> {
    let mut cores = Vec::new();
    for item in text.split(',').map(str::trim) {
        if item.is_empty() {
            return Err(format!(
                "{text:?} has an empty item; a list of cores looks like 0,2-5"
            ));
        }
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (index(first.trim(), item)?, index(last.trim(), item)?),
            None => {
                let core = index(item, item)?;
                (core, core)
            }
        };
        if first > last {
            return Err(format!(
                "the range {item:?} runs backwards; write {last}-{first}"
            ));
        }
        cores.extend(first..=last);
    }
    check(&cores)?;
    Ok(cores)
}

/// Checks a list that did not come from text: not empty, no core twice, none above [`MAX_CORE`].
///
/// # Errors
/// Says which core is wrong.
pub(super) fn check(cores: &[usize]) -> Result<(), String> {
    if cores.is_empty() {
        return Err("the list of cores is empty".into());
    }
    let mut seen = [false; MAX_CORE + 1];
    for &core in cores {
        match seen.get_mut(core) {
            None => {
                return Err(format!(
                    "core {core} is above the highest index, {MAX_CORE}"
                ));
            }
            Some(true) => return Err(format!("core {core} is listed twice")),
            Some(seen) => *seen = true,
        }
    }
    Ok(())
}

fn index(text: &str, item: &str) -> Result<usize, String> {
    // `parse` also takes a leading plus sign, which no list of cores has.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(core) if digits && core <= MAX_CORE => Ok(core),
        _ if digits => Err(format!(
            "core {text} is above the highest index, {MAX_CORE}"
        )),
        _ => Err(format!(
            "{item:?} is neither a core nor a range; a list of cores looks like 0,2-5"
        )),
    }
}

/// Writes a list in the shortest form that [`parse`] reads back as the same list.
pub fn format(cores: &[usize]) -> String {
    let mut items = Vec::new();
    let mut rest = cores;
    while let Some(&first) = rest.first() {
        let run = rest
            .iter()
            .zip(first..)
            .take_while(|&(&core, expected)| core == expected)
            .count();
        items.push(match run {
            1 => first.to_string(),
            2 => format!("{first},{}", first + 1),
            _ => format!("{first}-{}", first + run - 1),
        });
        rest = &rest[run..];
    }
    items.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_keep_their_order() {
        assert_eq!(parse("0,2-5").unwrap(), [0, 2, 3, 4, 5]);
        assert_eq!(parse(" 7 , 1 - 2 ").unwrap(), [7, 1, 2]);
        assert_eq!(parse("1023").unwrap(), [1023]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("", "empty item"),
            ("0,,1", "empty item"),
            ("0-", "neither"),
            ("-1", "neither"),
            ("a", "neither"),
            ("+1", "neither"),
            ("1-2-3", "neither"),
            ("5-2", "write 2-5"),
            ("1,0-2", "core 1 is listed twice"),
            ("1024", "highest index"),
            ("0-99999999999999999999", "highest index"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(expected), "{text:?}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_list_survives_writing_and_reading(
            cores in prop::collection::hash_set(0..=MAX_CORE, 1..40)
                .prop_map(|set| set.into_iter().collect::<Vec<_>>())
        ) {
            prop_assert_eq!(parse(&format(&cores)), Ok(cores));
        }

        #[test]
        fn ranges_expand_to_every_core_between(first in 0..=MAX_CORE, length in 0..50usize) {
            let last = (first + length).min(MAX_CORE);
            let expected: Vec<usize> = (first..=last).collect();
            prop_assert_eq!(format(&expected).parse::<String>().unwrap(), format(&parse(&format!("{first}-{last}")).unwrap()));
            prop_assert_eq!(parse(&format!("{first}-{last}")), Ok(expected));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[0-9,\\- a+]{0,24}") {
            if let Ok(cores) = parse(&text) {
                prop_assert!(check(&cores).is_ok());
                prop_assert_eq!(parse(&format(&cores)), Ok(cores));
            }
        }
    }
}
