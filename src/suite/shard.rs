//! A slice of a suite, for one machine of many.

use serde::Serialize;

use crate::config::ValueError;

/// The slice `number` of `count`: of the scenarios in order, those at the places `number`, `number +
/// count`, `number + 2 * count`, and so on, the first being at 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// From 1.
    pub number: usize,
    /// How many there are.
    pub count: usize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { number: 1, count: 1 }
    }
}

impl Shard {
    /// The slice of `all`.
    pub fn of<'a, T>(&self, all: &'a [T]) -> Vec<&'a T> {
        all.iter().skip(self.number.saturating_sub(1)).step_by(self.count.max(1)).collect()
    }
}

/// Parses `K/N`.
///
/// # Errors
/// When K is not from 1 to N.
pub fn parse_shard(text: &str) -> Result<Shard, ValueError> {
    const REMEDY: &str = "Write `K/N` with K from 1 to N, such as `2/4` for the second of four slices";
    let parsed = text.split_once('/').and_then(|(number, count)| Some((digits(number)?, digits(count)?)));
    let Some((number, count)) = parsed else { return Err(ValueError::new("not a slice", REMEDY)) };
    if number == 0 || count == 0 {
        return Err(ValueError::new("slices are counted from 1", REMEDY));
    }
    if number > count {
        return Err(ValueError::new(format!("there are {count} slices only"), REMEDY));
    }
    Ok(Shard { number, count })
}

/// Parses how many scenarios run at a time.
///
/// # Errors
/// When it is no number, or 0.
pub fn parse_jobs(text: &str) -> Result<usize, ValueError> {
    match digits(text) {
        Some(jobs @ 1..) => Ok(jobs),
        _ => Err(ValueError::new("not a number of scenarios at a time", "Write a number from 1 up")),
    }
}

fn digits(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slices() {
        let all = [1, 2, 3, 4, 5];
        let of = |text| parse_shard(text).unwrap().of(&all).into_iter().copied().collect::<Vec<_>>();
        assert_eq!(of("1/1"), all);
        assert_eq!((of("1/2"), of("2/2")), (vec![1, 3, 5], vec![2, 4]));
        assert!(of("7/9").is_empty());
        for text in ["", "1", "/", "0/1", "1/0", "0/0", "3/2", "-1/2", "+1/2", "1/2/3", "a/b", "1 / 2"] {
            assert!(parse_shard(text).unwrap_err().remedy.contains("K/N"), "{text}");
        }
        assert_eq!(parse_jobs("4"), Ok(4));
        for text in ["", "0", "-1", "x", "99999999999999999999999"] {
            assert!(parse_jobs(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_slices_together_are_the_suite(size in 0_usize..50, count in 1_usize..20) {
            let all: Vec<usize> = (0..size).collect();
            let slices = (1..=count).flat_map(|number| Shard { number, count }.of(&all));
            let mut together: Vec<usize> = slices.copied().collect();
            together.sort_unstable();
            prop_assert_eq!(together, all);
        }
    }
}
