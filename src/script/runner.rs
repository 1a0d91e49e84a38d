//! Follows a script through a run.

use std::fmt;
use std::time::{Duration, Instant};

use super::ansi::AnsiFilter;
use super::pattern::{Found, Matcher};
use super::tail::{Tail, printable};
use super::{Pattern, Script};

/// So long without output is a pause, which decides `$` and `\b` at the end of what has come: a prompt
/// has no line end.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a guest may take to end by itself after the last step has typed something, where the step
/// has no timeout.
const FAREWELL: Duration = Duration::from_secs(10);
/// The most output that is kept to tell the text of a match, in bytes.
const WINDOW: usize = 4096;

/// What Linux says when it starts init, and what systemd says first as init.
const INIT: &str = r"Run /\S+ as init process|systemd\[1\]: ";

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All steps matched.
    Passed {
        /// How many.
        steps: usize,
    },
    /// A pattern of success matched.
    Succeeded {
        /// The pattern.
        pattern: String,
    },
    /// It failed.
    Failed(Failure),
}

/// Why a script failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// A step's time ran out.
    StepTimedOut {
        /// The step, in words.
        step: String,
        /// The pattern that did not come.
        expected: String,
        /// The step's time.
        limit: Duration,
    },
    /// The guest ended before a step matched.
    Ended {
        /// The step, in words.
        step: String,
        /// The pattern that did not come.
        expected: String,
        /// How the guest ended, in words.
        end: String,
    },
    /// The guest ended before any pattern of success came.
    NoSuccess {
        /// The patterns.
        expected: String,
        /// How the guest ended, in words.
        end: String,
    },
    /// A pattern of failure came.
    FailOn {
        /// The pattern.
        pattern: String,
        /// The text that matched.
        text: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StepTimedOut { step, expected, limit } => {
                write!(f, "{step} failed: /{expected}/ did not come within {limit:?}")
            }
            Self::Ended { step, expected, end } => {
                write!(f, "{step} failed: it waited for /{expected}/ when {end}")
            }
            Self::NoSuccess { expected, end } => {
                write!(f, "the run did not succeed: no {expected} came before {end}")
            }
            Self::FailOn { pattern, text } => write!(f, "the output matches /{pattern}/: {text:?}"),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { steps: 1 } => write!(f, "the script's step matched"),
            Self::Passed { steps } => write!(f, "all {steps} steps of the script matched"),
            Self::Succeeded { pattern } => write!(f, "the output matches /{pattern}/, which is success"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRecord {
    /// The text that matched.
    pub matched: Option<String>,
    /// When it began.
    pub begun: Instant,
    /// When it matched, or typed its text; `None` if it did not.
    pub done: Option<Instant>,
}

/// A script under way.
pub struct Runner {
    script: Script,
    filter: AnsiFilter,
    /// The last byte that was looked at.
    previous: Option<u8>,
    /// The current step's search, where it waits for something.
    expecting: Option<Matcher>,
    /// For each pattern of failure and of success.
    fail_on: Vec<Matcher>,
    succeed_on: Vec<Matcher>,
    /// The steps so far; the last one may be under way.
    records: Vec<StepRecord>,
    /// When the run ends by itself, because the last step has typed something.
    farewell: Option<Instant>,
    /// What has to be typed and is not taken yet.
    to_send: Vec<u8>,
    /// When output has come that no pause has followed yet.
    fresh: Option<Instant>,
    /// The end of the output since the current step began.
    window: Vec<u8>,
    tail: Tail,
    verdict: Option<Verdict>,
    /// Looks for the first sign of user space, until it is seen.
    init: Option<Matcher>,
    init_seen: Option<Instant>,
}

impl Runner {
    /// Begins `script` at `now`.
    #[must_use]
    pub fn new(script: Script, now: Instant) -> Self {
        let matchers = |patterns: &[Pattern]| patterns.iter().map(Matcher::new).collect();
        let (fail_on, succeed_on) = (matchers(&script.fail_on), matchers(&script.succeed_on));
        let mut runner = Self {
            script,
            filter: AnsiFilter::default(),
            previous: None,
            expecting: None,
            fail_on,
            succeed_on,
            records: Vec::new(),
            farewell: None,
            to_send: Vec::new(),
            fresh: None,
            window: Vec::new(),
            tail: Tail::default(),
            verdict: None,
            init: Pattern::new(INIT).ok().map(|pattern| Matcher::new(&pattern)),
            init_seen: None,
        };
        runner.begin_step(now);
        runner
    }

    /// Takes output that came at `now`.
    pub fn output(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            return;
        }
        self.fresh = Some(now);
        for byte in bytes {
            if let Some(byte) = self.filter.keep(*byte) {
                self.byte(byte, now);
            }
        }
    }

    /// Looks at the time.
    pub fn tick(&mut self, now: Instant) {
        if self.fresh.is_some_and(|since| now >= since + PAUSE) {
            self.pause(now);
        }
        if self.verdict.is_some() {
            return;
        }
        if self.farewell.is_some_and(|end| now >= end) {
            self.verdict = Some(Verdict::Passed { steps: self.script.steps.len() });
        } else if let (Some((_, limit)), Some(pattern)) =
            (self.limit().filter(|(end, _)| now >= *end), self.expected())
        {
            let expected = pattern.as_str().to_owned();
            let failure = Failure::StepTimedOut { step: self.step_in_words(), expected, limit };
            self.verdict = Some(Verdict::Failed(failure));
        }
    }

    /// The guest has ended, which `end` says in words. What it wrote before has been given to
    /// [`Self::output`]. Tells whether that is a failure of the script.
    pub fn guest_ended(&mut self, end: &str, now: Instant) -> Option<&Verdict> {
        self.pause(now);
        if self.verdict.is_none() {
            let end = end.to_owned();
            let failure = if let Some(pattern) = self.expected() {
                let expected = pattern.as_str().to_owned();
                Some(Failure::Ended { step: self.step_in_words(), expected, end })
            } else if self.script.steps.is_empty() && !self.script.succeed_on.is_empty() {
                let patterns = self.script.succeed_on.iter().map(|p| format!("/{}/", p.as_str()));
                let expected = patterns.collect::<Vec<_>>().join(" or ");
                Some(Failure::NoSuccess { expected, end })
            } else {
                None
            };
            self.verdict = failure.map(Verdict::Failed);
        }
        self.verdict()
    }

    /// How the script ended, if it has.
    #[must_use]
    pub fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    /// When [`Self::tick`] has something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.verdict.is_some() {
            return None;
        }
        let pause = self.fresh.map(|since| since + PAUSE);
        [pause, self.farewell, self.limit().map(|(end, _)| end)].into_iter().flatten().min()
    }

    /// What has to be typed; the owner takes off what the guest has taken.
    pub fn to_send(&mut self) -> &mut Vec<u8> {
        &mut self.to_send
    }

    /// The current step in words, while it waits for something.
    #[must_use]
    pub fn waiting(&self) -> Option<String> {
        let expected = self.expected()?;
        Some(format!("{} waited for /{}/", self.step_in_words(), expected.as_str()))
    }

    /// The steps so far, in order.
    #[must_use]
    pub fn records(&self) -> &[StepRecord] {
        &self.records
    }

    /// When the guest's kernel said that it starts user space.
    #[must_use]
    pub fn init_seen(&self) -> Option<Instant> {
        self.init_seen
    }

    /// The script.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// The last `count` lines of output, at most 100.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        self.tail.last(count)
    }

    fn byte(&mut self, byte: u8, now: Instant) {
        let previous = self.previous;
        self.tail.push(byte);
        if self.init.as_mut().is_some_and(|matcher| matcher.push(previous, byte).is_some()) {
            self.init = None;
            self.init_seen = Some(now);
        }
        if self.verdict.is_none() {
            let mut found = self.expecting.as_mut().and_then(|matcher| matcher.push(previous, byte));
            while found == Some(Found::Before) {
                // The byte is the next step's.
                self.step_matched(now);
                found = self.expecting.as_mut().and_then(|matcher| matcher.push(previous, byte));
            }
            self.remember(byte);
            let hit = |matchers: &mut [Matcher]| {
                matchers.iter_mut().position(|matcher| matcher.push(previous, byte).is_some())
            };
            // Failure counts before success.
            let (failed, succeeded) = (hit(&mut self.fail_on), hit(&mut self.succeed_on));
            if let Some(index) = failed {
                self.fail(index);
            } else {
                if found.is_some() {
                    self.step_matched(now);
                }
                if let Some(index) = succeeded {
                    self.succeed(index);
                }
            }
        }
        self.previous = Some(byte);
    }

    fn pause(&mut self, now: Instant) {
        if self.fresh.take().is_none() || self.verdict.is_some() {
            return;
        }
        let previous = self.previous;
        let hit = |matchers: &mut [Matcher]| matchers.iter_mut().position(|matcher| matcher.pause(previous));
        let (failed, succeeded) = (hit(&mut self.fail_on), hit(&mut self.succeed_on));
        if let Some(index) = failed {
            self.fail(index);
            return;
        }
        if self.expecting.as_mut().is_some_and(|matcher| matcher.pause(previous)) {
            self.step_matched(now);
        }
        if let Some(index) = succeeded {
            self.succeed(index);
        }
    }

    fn remember(&mut self, byte: u8) {
        if self.window.len() >= 2 * WINDOW {
            self.window.drain(..WINDOW);
        }
        self.window.push(byte);
    }

    fn text_of(&self, pattern: &Pattern) -> String {
        pattern.find(&self.window).map(printable).unwrap_or_default()
    }

    fn fail(&mut self, index: usize) {
        let Some(pattern) = self.script.fail_on.get(index) else { return };
        let text = self.tail.last(1).pop().unwrap_or_default();
        let failure = Failure::FailOn { pattern: pattern.as_str().to_owned(), text };
        self.verdict = Some(Verdict::Failed(failure));
    }

    fn succeed(&mut self, index: usize) {
        let Some(pattern) = self.script.succeed_on.get(index) else { return };
        // All steps may have matched with the same byte.
        self.verdict.get_or_insert(Verdict::Succeeded { pattern: pattern.as_str().to_owned() });
    }

    /// The current step has what it waited for.
    fn step_matched(&mut self, now: Instant) {
        let matched = self.expected().map(|pattern| self.text_of(pattern));
        if let Some(record) = self.records.last_mut() {
            record.matched = matched;
        }
        self.finish_step(now);
        self.begin_step(now);
    }

    /// Types the current step's text.
    fn finish_step(&mut self, now: Instant) {
        self.expecting = None;
        let Some(record) = self.records.last_mut() else { return };
        record.done = Some(now);
        let step = self.script.steps.get(self.records.len().saturating_sub(1));
        if let Some(text) = step.and_then(|step| step.send.as_deref()) {
            self.to_send.extend_from_slice(text);
        }
    }

    /// Goes to the next step that waits for something, or to the end.
    fn begin_step(&mut self, now: Instant) {
        self.window.clear();
        while let Some(step) = self.script.steps.get(self.records.len()) {
            self.records.push(StepRecord { matched: None, begun: now, done: None });
            if let Some(pattern) = &step.expect {
                self.expecting = Some(Matcher::new(pattern));
                return;
            }
            self.finish_step(now);
        }
        match self.script.steps.last() {
            None => {}
            // What was typed last may end the guest, which is then the run's end.
            Some(last) if last.send.is_some() => {
                self.farewell = now.checked_add(last.timeout.unwrap_or(FAREWELL));
            }
            Some(_) => self.verdict = Some(Verdict::Passed { steps: self.script.steps.len() }),
        }
    }

    /// What the current step waits for.
    fn expected(&self) -> Option<&Pattern> {
        self.expecting.as_ref()?;
        self.script.steps.get(self.records.len().checked_sub(1)?)?.expect.as_ref()
    }

    /// When the current step's time is over, and how long it was.
    fn limit(&self) -> Option<(Instant, Duration)> {
        self.expecting.as_ref()?;
        let limit = self.script.steps.get(self.records.len().checked_sub(1)?)?.timeout?;
        Some((self.records.last()?.begun.checked_add(limit)?, limit))
    }

    /// "step 2 of 3 (login)".
    fn step_in_words(&self) -> String {
        let (number, steps) = (self.records.len(), &self.script.steps);
        let name = number.checked_sub(1).and_then(|index| steps.get(index)?.name.as_deref());
        let name = name.map(|name| format!(" ({name})")).unwrap_or_default();
        format!("step {number} of {}{name}", steps.len())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::*;
    use proptest::prelude::*;

    fn expect(pattern: &str) -> Step {
        Step { expect: Some(Pattern::new(pattern).unwrap()), ..Step::default() }
    }

    fn send(text: &str) -> Step {
        Step { send: Some(text.into()), ..Step::default() }
    }

    fn both(pattern: &str, text: &str) -> Step {
        Step { send: Some(text.into()), ..expect(pattern) }
    }

    fn script(steps: Vec<Step>) -> Script {
        Script { steps, ..Script::default() }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
    }

    #[test]
    fn a_login() {
        let now = Instant::now();
        let steps = vec![both("login: ", "root\n"), both("# $", "ls\n"), expect("(?m)^file$")];
        let mut runner = Runner::new(script(steps), now);
        runner.output(b"Debian\r\n\x1b[1mlogin: \x1b[0m", now);
        assert_eq!(std::mem::take(runner.to_send()), b"root\n");
        runner.output(b"root\r\n~ # ", now);
        assert_eq!(runner.deadline(), Some(now + PAUSE));
        runner.tick(now + PAUSE / 2);
        assert!(runner.to_send().is_empty());
        runner.tick(now + PAUSE);
        assert_eq!(std::mem::take(runner.to_send()), b"ls\n");
        assert_eq!(runner.waiting().unwrap(), "step 3 of 3 waited for /(?m)^file$/");
        runner.output(b"ls\r\nfiles\r\nfile\r\n", now);
        assert_eq!(runner.verdict(), Some(&Verdict::Passed { steps: 3 }));
        let matched: Vec<_> = runner.records().iter().map(|record| record.matched.as_deref()).collect();
        assert_eq!(matched, [Some("login: "), Some("# "), Some("file")]);
        assert_eq!(runner.deadline(), None);
    }

    #[test]
    fn each_step_looks_only_at_what_came_after_the_last() {
        let now = Instant::now();
        let mut runner = Runner::new(script(vec![expect("a"), expect("a"), expect("^b")]), now);
        runner.output(b"a", now);
        assert_eq!(runner.records().len(), 2);
        runner.output(b"ab", now);
        assert!(runner.verdict().is_none(), "^ is the beginning of the output, not of the step");
    }

    #[test]
    fn a_step_that_times_out_says_which_and_what_it_waited_for() {
        let now = Instant::now();
        let limit = Duration::from_secs(5);
        let named = Step { name: Some("boot".into()), timeout: Some(limit), ..expect("ready") };
        let mut runner = Runner::new(script(vec![send("x"), named]), now);
        assert_eq!(runner.to_send(), b"x");
        runner.output(b"read", now + limit);
        runner.tick(now + limit - Duration::from_millis(1));
        assert!(runner.verdict().is_none());
        runner.tick(now + limit);
        let Some(Verdict::Failed(failure)) = runner.verdict() else { panic!() };
        assert_eq!(failure.to_string(), "step 2 of 2 (boot) failed: /ready/ did not come within 5s");
        assert_eq!(runner.last_lines(5), ["read"]);
    }

    #[test]
    fn the_guests_end_fails_what_still_waits() {
        let now = Instant::now();
        let mut runner = Runner::new(script(vec![expect("ready")]), now);
        runner.output(b"almost\n", now);
        let Some(Verdict::Failed(failure)) = runner.guest_ended("the guest powered off", now) else {
            panic!()
        };
        assert_eq!(
            failure.to_string(),
            "step 1 of 1 failed: it waited for /ready/ when the guest powered off"
        );

        let mut runner = Runner::new(script(vec![both("#", "poweroff\n")]), now);
        runner.output(b"#", now);
        assert_eq!(runner.guest_ended("the guest powered off", now), None);

        let only = Script { succeed_on: patterns(&["yes", "ok"]), ..Script::default() };
        let mut runner = Runner::new(only.clone(), now);
        let Some(Verdict::Failed(failure)) = runner.guest_ended("it ended", now) else { panic!() };
        assert!(failure.to_string().contains("no /yes/ or /ok/ came before it ended"));
        let mut runner = Runner::new(only, now);
        runner.output(b"ok", now);
        assert_eq!(runner.guest_ended("it ended", now), Some(&Verdict::Succeeded { pattern: "ok".into() }));

        // A line end that never comes is decided by the guest's end.
        let mut runner = Runner::new(script(vec![expect("done$")]), now);
        runner.output(b"done", now);
        assert_eq!(runner.guest_ended("it ended", now), Some(&Verdict::Passed { steps: 1 }));
    }

    #[test]
    fn after_the_last_text_the_guest_has_time_to_end() {
        let now = Instant::now();
        let mut runner = Runner::new(script(vec![both("#", "poweroff\n")]), now);
        runner.output(b"#", now);
        runner.tick(now + FAREWELL - Duration::from_millis(1));
        assert_eq!(runner.verdict(), None);
        runner.tick(now + FAREWELL);
        assert_eq!(runner.verdict(), Some(&Verdict::Passed { steps: 1 }));
    }

    #[test]
    fn failure_counts_before_success() {
        let now = Instant::now();
        let both = Script {
            steps: vec![expect("end"), expect("never")],
            fail_on: patterns(&["Oops", "x end"]),
            succeed_on: patterns(&["end"]),
        };
        let mut runner = Runner::new(both.clone(), now);
        runner.output(b"some\nan x end\n", now);
        let expected = Failure::FailOn { pattern: "x end".into(), text: "an x end".into() };
        assert_eq!(runner.verdict(), Some(&Verdict::Failed(expected)));
        let mut runner = Runner::new(both, now);
        runner.output(b"the end", now);
        assert_eq!(runner.verdict(), Some(&Verdict::Succeeded { pattern: "end".into() }));
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut runner = Runner::new(script(vec![expect("never")]), now);
        for _ in 0..64 {
            runner.output(&[b'x'; 1 << 14], now);
        }
        assert!(runner.window.capacity() <= 4 * WINDOW);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            text in prop::collection::vec(prop_oneof![
                Just("a"), Just("b"), Just("\r\n"), Just("\u{1b}[0m"), Just("ok"), Just("\u{1b}]t\u{7}"), Just("# "),
            ], 0..40),
            cuts in prop::collection::vec(0_usize..120, 0..20),
        ) {
            let text = text.concat().into_bytes();
            let now = Instant::now();
            let script = Script {
                steps: vec![both("a+b", "x"), send("y"), both("(?m)^ok$", "z"), both(r"\bab*\b", "!"), expect("#")],
                fail_on: patterns(&["bbb"]),
                succeed_on: patterns(&["okok$"]),
            };
            let mut whole = Runner::new(script.clone(), now);
            whole.output(&text, now);
            let mut split = Runner::new(script, now);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                split.output(&text[pair[0]..pair[1]], now);
            }
            for runner in [&mut whole, &mut split] {
                runner.tick(now + PAUSE);
            }
            prop_assert_eq!(whole.verdict(), split.verdict());
            prop_assert_eq!(whole.records(), split.records());
            prop_assert_eq!(whole.to_send(), split.to_send());
            prop_assert_eq!(whole.last_lines(100), split.last_lines(100));
        }
    }
}
