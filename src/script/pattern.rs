//! A regular expression, and how a stream of bytes is matched against it without being kept.
//!
//! A [`Matcher`] advances the expression's nondeterministic automaton by one byte at a time, so what it
//! finds cannot depend on how the bytes arrive, and its memory and its time a byte are bounded by the
//! expression's size. It finds the match that *ends* first: `a+` matches at the first `a`.

use std::fmt;

use regex_automata::nfa::thompson::pikevm::PikeVM;
use regex_automata::nfa::thompson::{NFA, State};
use regex_automata::util::look::{Look, LookMatcher};
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_syntax::hir::ErrorKind;

use crate::config::ValueError;

/// Bytes that a compiled expression may take.
const SIZE_LIMIT: usize = 1 << 20;

/// A regular expression in the syntax of the crate `regex`, without classes of Unicode properties (`\p{…}`).
/// One that ignores case (`(?i)`) is an expression over ASCII.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    vm: PikeVM,
}

impl Pattern {
    /// Compiles `text`.
    ///
    /// # Errors
    /// When it is no regular expression, one that is too large, or one that matches nothing at all
    /// everywhere, so that nothing would be waited for.
    pub fn new(text: &str) -> Result<Self, ValueError> {
        const REMEDY: &str =
            r"Write a regular expression such as `login: ` or `^ok [0-9]+`; `\(` is a parenthesis as such";
        let mut syntax = syntax::Config::new().utf8(false);
        let mut parsed = syntax::parse_with(text, &syntax);
        if let Err(regex_syntax::Error::Translate(error)) = &parsed
            && matches!(error.kind(), ErrorKind::UnicodeCaseUnavailable)
        {
            // Upper and lower case are ASCII's: the tables for all others would be a tenth of what a start
            // has to load.
            syntax = syntax.unicode(false);
            parsed = syntax::parse_with(text, &syntax);
        }
        let hir = parsed.map_err(|error| {
            let reason = match &error {
                regex_syntax::Error::Parse(error) => error.kind().to_string(),
                regex_syntax::Error::Translate(error) => error.kind().to_string(),
                _ => "it cannot be read".to_owned(),
            };
            ValueError::new(format!("not a regular expression: {reason}"), REMEDY)
        })?;
        if hir.properties().minimum_len() == Some(0) {
            let remedy = "Write at least one character that must come";
            return Err(ValueError::new("it matches the empty text, so it waits for nothing", remedy));
        }
        if hir.properties().minimum_len().is_none() {
            return Err(ValueError::new("it can never match", REMEDY));
        }
        let limits = NFA::config().nfa_size_limit(Some(SIZE_LIMIT)).utf8(false);
        let vm = PikeVM::builder().syntax(syntax).thompson(limits).build(text).map_err(|error| {
            let reason = match error.size_limit() {
                Some(_) => "the regular expression is too large".to_owned(),
                None => format!("not a regular expression: {}", error.to_string().replace('\n', " ")),
            };
            ValueError::new(reason, "Write a shorter one, with smaller repetitions")
        })?;
        Ok(Self { text: text.to_owned(), vm })
    }

    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text of the first match in `bytes`.
    #[must_use]
    pub fn find<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let found = self.vm.find_iter(&mut self.vm.create_cache(), bytes).next()?;
        bytes.get(found.range())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Where a match ended, seen from the byte that showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Just before the byte, which had to come to decide it: `^ok$` in "ok\n".
    Before,
    /// With the byte.
    With,
}

/// A search for a pattern in a stream.
#[derive(Debug)]
pub struct Matcher {
    nfa: NFA,
    looks: LookMatcher,
    /// The automaton's states after the last byte, before empty transitions.
    current: StateSet,
    next: StateSet,
    /// The states that empty transitions reach.
    closure: StateSet,
    stack: Vec<StateID>,
}

/// What lies at a position, for `^`, `$` and `\b`.
#[derive(Debug, Clone, Copy)]
enum After {
    Byte(u8),
    /// Nothing yet; nobody knows what comes.
    Unknown,
    /// Nothing for the time being, which shall count as the end.
    End,
}

impl Matcher {
    /// Starts to look for `pattern`.
    #[must_use]
    pub fn new(pattern: &Pattern) -> Self {
        let nfa = pattern.vm.get_nfa().clone();
        let count = nfa.states().len();
        let looks = nfa.look_matcher().clone();
        let set = || StateSet::new(count);
        Self { nfa, looks, current: set(), next: set(), closure: set(), stack: Vec::new() }
    }

    /// Takes the next byte; `previous` is the one before it, if there was one.
    pub fn push(&mut self, previous: Option<u8>, byte: u8) -> Option<Found> {
        // A match may begin anywhere.
        self.current.insert(self.nfa.start_anchored());
        if self.close(previous, After::Byte(byte)) {
            return Some(Found::Before);
        }
        self.next.clear();
        for id in &self.closure.members {
            let target = match self.nfa.state(*id) {
                State::ByteRange { trans } => trans.matches_byte(byte).then_some(trans.next),
                State::Sparse(transitions) => transitions.matches_byte(byte),
                State::Dense(transitions) => transitions.matches_byte(byte),
                _ => None,
            };
            if let Some(target) = target {
                self.next.insert(target);
            }
        }
        std::mem::swap(&mut self.current, &mut self.next);
        self.close(Some(byte), After::Unknown).then_some(Found::With)
    }

    /// The stream pauses here: whether there is a match if this is the end. `previous` is the last byte.
    pub fn pause(&mut self, previous: Option<u8>) -> bool {
        self.close(previous, After::End)
    }

    /// Follows the empty transitions; true if they lead to a match.
    fn close(&mut self, previous: Option<u8>, after: After) -> bool {
        self.closure.clear();
        for id in &self.current.members {
            self.stack.push(*id);
            while let Some(id) = self.stack.pop() {
                if !self.closure.insert(id) {
                    continue;
                }
                match self.nfa.state(id) {
                    State::Match { .. } => {
                        self.stack.clear();
                        return true;
                    }
                    State::Look { look, next } => {
                        if holds(&self.looks, *look, previous, after) {
                            self.stack.push(*next);
                        }
                    }
                    State::Union { alternates } => self.stack.extend(alternates.iter()),
                    State::BinaryUnion { alt1, alt2 } => self.stack.extend([*alt1, *alt2]),
                    State::Capture { next, .. } => self.stack.push(*next),
                    State::ByteRange { .. } | State::Sparse(_) | State::Dense(_) | State::Fail => {}
                }
            }
        }
        false
    }
}

/// Whether an assertion holds between `previous` and `after`. Words are of ASCII letters: the neighbours
/// are single bytes.
fn holds(looks: &LookMatcher, look: Look, previous: Option<u8>, after: After) -> bool {
    let look = match look {
        Look::WordUnicode => Look::WordAscii,
        Look::WordUnicodeNegate => Look::WordAsciiNegate,
        Look::WordStartUnicode => Look::WordStartAscii,
        Look::WordEndUnicode => Look::WordEndAscii,
        Look::WordStartHalfUnicode => Look::WordStartHalfAscii,
        Look::WordEndHalfUnicode => Look::WordEndHalfAscii,
        look => look,
    };
    match (previous, after) {
        (_, After::Unknown) => false,
        (Some(previous), After::Byte(next)) => looks.matches(look, &[previous, next], 1),
        (None, After::Byte(next)) => looks.matches(look, &[next], 0),
        (Some(previous), After::End) => looks.matches(look, &[previous], 1),
        (None, After::End) => looks.matches(look, &[], 0),
    }
}

/// A set of the automaton's states that is quick to empty.
#[derive(Debug)]
struct StateSet {
    members: Vec<StateID>,
    contains: Vec<bool>,
}

impl StateSet {
    fn new(count: usize) -> Self {
        Self { members: Vec::with_capacity(count), contains: vec![false; count] }
    }

    /// Adds `id`; true if it is new.
    fn insert(&mut self, id: StateID) -> bool {
        let Some(slot) = self.contains.get_mut(id.as_usize()) else { return false };
        let new = !std::mem::replace(slot, true);
        if new {
            self.members.push(id);
        }
        new
    }

    fn clear(&mut self) {
        for id in self.members.drain(..) {
            if let Some(slot) = self.contains.get_mut(id.as_usize()) {
                *slot = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where the first match ends, and whether a pause at the end was needed for it.
    fn first(pattern: &str, text: &str) -> Option<(usize, bool)> {
        let mut matcher = Matcher::new(&Pattern::new(pattern).unwrap());
        let mut previous = None;
        for (at, byte) in text.bytes().enumerate() {
            match matcher.push(previous, byte) {
                Some(Found::Before) => return Some((at, false)),
                Some(Found::With) => return Some((at + 1, false)),
                None => previous = Some(byte),
            }
        }
        matcher.pause(previous).then_some((text.len(), true))
    }

    #[test]
    fn the_match_that_ends_first_is_found() {
        for (pattern, text, end) in [
            ("login: ", "debian login: _", Some((14, false))),
            ("a+", "baaa", Some((2, false))),
            ("ab|abcd", "xabcd", Some((3, false))),
            ("[0-9]{3}", "12 345 ", Some((6, false))),
            ("ü.ß", "xüöß", Some((7, false))),
            ("(?i)OK", "not ok", Some((6, false))),
            ("x", "", None),
            (r"\x01", "\u{1}", Some((1, false))),
        ] {
            assert_eq!(first(pattern, text), end, "{pattern} in {text:?}");
        }
    }

    #[test]
    fn ends_of_lines_and_words_need_what_follows_or_a_pause() {
        for (pattern, text, end) in [
            (r"(?m)^ok$", "okay\nnot ok\nok\n", Some((14, false))),
            (r"(?m)^ok$", "okay", None),
            ("# $", "# ls\n# ", Some((7, true))),
            (r"\bfoo\b", "foobar foo-", Some((10, false))),
            (r"\bfoo\b", "foo", Some((3, true))),
            (r"(?i)\bfoo\b", "foobar FOO-", Some((10, false))),
            ("^boot", "reboot boot", None),
            ("(?m)^boot", "reboot\nboot", Some((11, false))),
        ] {
            assert_eq!(first(pattern, text), end, "{pattern} in {text:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused_on_one_line() {
        for (text, word) in [
            ("(", "unclosed"),
            ("a{2", "repetition"),
            ("[z-a]", "range"),
            ("", "waits for nothing"),
            ("x*", "waits for nothing"),
            ("$", "waits for nothing"),
            ("(?:a{1000}){1000}{1000}", "too large"),
            ("[a&&b]", "never match"),
            (r"(a)\1", "not a regular expression"),
        ] {
            let message = Pattern::new(text).expect_err(text).to_string();
            assert!(message.contains(word) && !message.contains('\n'), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_search_in_the_whole_text(
            pattern in "[ab.]{1,3}(\\|[abc]{1,3})?(c|b\\+|\\[ab\\]|b\\*a)?",
            text in "[abc\n]{0,24}",
        ) {
            let Ok(compiled) = Pattern::new(&pattern) else { return Ok(()) };
            // The shortest beginning of the text that has a match.
            let end = (0..=text.len()).find(|end| compiled.find(&text.as_bytes()[..*end]).is_some());
            prop_assert_eq!(first(&pattern, &text).map(|(end, _)| end), end);
        }

        #[test]
        fn no_pattern_panics(pattern in "[ab()\\[\\]{}|*+?.^$\\\\0-9,]{0,14}", text in "[ab0-9\n ]{0,30}") {
            if Pattern::new(&pattern).is_ok() {
                let _ = first(&pattern, &text);
            }
        }
    }
}
