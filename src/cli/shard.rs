//! `--shard I/N`: which part of the work is this machine's.

use std::str::FromStr;

use crate::operations::ShardNumber;

/// Where schedulers say which of a job's tasks this is: Kubernetes' indexed jobs, Slurm's job arrays, AWS Batch's array jobs.
const INDEX_VARIABLES: [&str; 3] = ["JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX"];

/// As it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardArg {
    /// Nothing for `auto`.
    number: Option<u32>,
    shards: u32,
}

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let how = "write I/N, with I from 0 to N-1, or auto/N for the index that the scheduler gives";
        let (number, shards) = text.split_once('/').ok_or_else(|| how.to_owned())?;
        let shards = shards.parse().ok().filter(|shards| (1..=MOST_SHARDS).contains(shards));
        let shards = shards.ok_or_else(|| format!("N is from 1 to {MOST_SHARDS}: {how}"))?;
        let number = match number {
            "auto" => None,
            number => Some(number.parse().map_err(|_| how.to_owned())?),
        };
        Self { number, shards }.checked()
    }
}

/// Each shard is a part that the commit reads.
const MOST_SHARDS: u32 = 10_000;

impl ShardArg {
    fn checked(self) -> Result<Self, String> {
        match self.number {
            Some(number) if number >= self.shards => {
                Err(format!("there is no shard {number} of {}: they are numbered from 0 to {}", self.shards, self.shards - 1))
            }
            _ => Ok(self),
        }
    }

    /// The shard, its number taken from what the scheduler says where it was not typed.
    pub(super) fn resolve(self, variable: impl Fn(&str) -> Option<String>) -> Result<ShardNumber, String> {
        let number = match self.number {
            Some(number) => number,
            None => scheduled(variable)?,
        };
        Self { number: Some(number), ..self }.checked()?;
        Ok(ShardNumber { number, shards: self.shards })
    }
}

fn scheduled(variable: impl Fn(&str) -> Option<String>) -> Result<u32, String> {
    let mut found: Option<(&str, u32)> = None;
    for name in INDEX_VARIABLES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let number = value.parse().map_err(|_| format!("{name} is {value:?}, which is no number from 0 on"))?;
        match found {
            Some((other, before)) if before != number => {
                return Err(format!("{other} says {before} and {name} says {number}: write --shard I/N"));
            }
            _ => found = Some((name, number)),
        }
    }
    found.map(|(_, number)| number).ok_or_else(|| format!("none of {} is set: write --shard I/N", INDEX_VARIABLES.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::{ShardArg, ShardNumber};

    fn resolved(text: &str, variables: &[(&str, &str)]) -> Result<ShardNumber, String> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        text.parse::<ShardArg>()?.resolve(variable)
    }

    #[test]
    fn a_shard_is_typed_or_given_by_the_scheduler() {
        assert_eq!(resolved("2/8", &[]), Ok(ShardNumber { number: 2, shards: 8 }));
        for name in super::INDEX_VARIABLES {
            assert_eq!(resolved("auto/8", &[(name, "7")]), Ok(ShardNumber { number: 7, shards: 8 }));
            // What was typed counts.
            assert_eq!(resolved("1/8", &[(name, "7")]), Ok(ShardNumber { number: 1, shards: 8 }));
        }
    }

    #[test]
    fn what_is_no_shard_is_refused_with_the_reason() {
        for (text, variables, said) in [
            ("3", &[][..], "I/N"),
            ("x/3", &[], "I/N"),
            ("0/0", &[], "from 1"),
            ("8/8", &[], "from 0 to 7"),
            ("auto/8", &[], "none of JOB_COMPLETION_INDEX"),
            ("auto/8", &[("SLURM_ARRAY_TASK_ID", "8")], "from 0 to 7"),
            ("auto/8", &[("SLURM_ARRAY_TASK_ID", "-1")], "SLURM_ARRAY_TASK_ID is"),
            ("auto/8", &[("SLURM_ARRAY_TASK_ID", "1"), ("JOB_COMPLETION_INDEX", "2")], "says 1"),
        ] {
            let error = resolved(text, variables).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
