//! The flags of a script: their order matters, which clap keeps apart from their values.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{ConfigError, Origin, ValueError, parse_timeout};
use crate::script::{Pattern, Step, unescape};

/// The flags, with the text of their help.
const FLAGS: [(&str, &str, &str); 4] = [
    ("expect", "REGEX", "A step of the script: wait for this output on COM1; may be repeated"),
    ("send", "TEXT", r"Then type this on COM1, with \n \r \t \e \xHH \\; may be repeated"),
    ("step", "NAME", "Name the step that the next --expect or --send begins"),
    ("step-timeout", "TIME", "Fail with status 123 if a step after this flag waits longer"),
];

/// The flags of a script in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepFlags(Vec<(&'static str, String)>);

impl FromArgMatches for StepFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let mut flags = Vec::new();
        for (flag, ..) in FLAGS {
            let values = matches.get_many::<String>(flag).into_iter().flatten();
            let places = matches.indices_of(flag).into_iter().flatten();
            flags.extend(places.zip(values).map(|(place, value)| (place, flag, value.clone())));
        }
        flags.sort_by_key(|(place, ..)| *place);
        self.0 = flags.into_iter().map(|(_, flag, value)| (flag, value)).collect();
        Ok(())
    }
}

impl Args for StepFlags {
    fn augment_args(command: Command) -> Command {
        FLAGS.into_iter().fold(command, |command, (flag, value, help)| {
            let arg = Arg::new(flag).long(flag).value_name(value).help(help);
            command.arg(arg.action(ArgAction::Append).allow_hyphen_values(true))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl StepFlags {
    /// The steps, if there are any. `--send` belongs to the `--expect` before it.
    ///
    /// # Errors
    /// When a value is wrong, or a name has no step.
    pub fn steps(&self) -> Result<Option<Vec<Step>>, ConfigError> {
        let mut steps: Vec<Step> = Vec::new();
        let (mut name, mut timeout) = (None, None);
        for (flag, value) in &self.0 {
            let invalid = |flag, problem| ConfigError::Invalid {
                origin: Box::new(Origin::Flag { flag, value: value.clone() }),
                problem,
            };
            match *flag {
                "expect" => {
                    let expect = Pattern::new(value).map_err(|problem| invalid("--expect", problem))?;
                    steps.push(Step { name: name.take(), expect: Some(expect), send: None, timeout });
                }
                "send" => {
                    let send = Some(unescape(value).map_err(|problem| invalid("--send", problem))?);
                    match steps.last_mut() {
                        Some(step) if step.send.is_none() && name.is_none() => step.send = send,
                        _ => steps.push(Step { name: name.take(), expect: None, send, timeout }),
                    }
                }
                "step-timeout" => {
                    let time = parse_timeout(value).map_err(|problem| invalid("--step-timeout", problem))?;
                    timeout = Some(time);
                }
                _ => name = Some(value.clone()),
            }
        }
        if let Some(name) = name {
            let problem = ValueError::new("a name without a step", "Write `--expect REGEX` behind it");
            return Err(ConfigError::Invalid {
                origin: Box::new(Origin::Flag { flag: "--step", value: name }),
                problem,
            });
        }
        Ok((!steps.is_empty()).then_some(steps))
    }
}
