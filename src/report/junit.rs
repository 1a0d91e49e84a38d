//! JUnit reports: a test suite a run, with a test case a step.

use std::fmt::Write;

use super::Report;

/// The cases of one run.
#[derive(Debug, Clone)]
pub struct Suite {
    name: String,
    seconds: f64,
    cases: Vec<Case>,
}

#[derive(Debug, Clone)]
struct Case {
    name: String,
    seconds: f64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Passed,
    Skipped,
    Failed { kind: String, message: String, text: String },
}

impl Suite {
    /// The suite of a run that is called `name`.
    #[must_use]
    pub fn of_run(name: &str, report: &Report) -> Self {
        let failed = || State::Failed {
            kind: report.outcome.clone(),
            message: report.in_words(),
            text: report.last_lines.join("\n"),
        };
        let end = report.times_ms.end;
        let mut blamed = false;
        let mut cases: Vec<Case> = Vec::new();
        for step in &report.steps {
            let name = match &step.name {
                Some(name) => format!("step {}: {name}", step.number),
                None => format!("step {}", step.number),
            };
            let begin = step.begin_ms.unwrap_or(end);
            let seconds = (step.end_ms.unwrap_or(end) - begin).max(0.0) / 1000.0;
            let state = match step.result.as_str() {
                "failed" if !report.passed() => {
                    blamed = true;
                    failed()
                }
                "failed" | "not-reached" => State::Skipped,
                _ => State::Passed,
            };
            cases.push(Case { name, seconds, state });
        }
        if cases.is_empty() || !(report.passed() || blamed) {
            let state = if report.passed() { State::Passed } else { failed() };
            cases.push(Case { name: "run".to_owned(), seconds: end / 1000.0, state });
        }
        Self { name: name.to_owned(), seconds: end / 1000.0, cases }
    }

    /// The suite of a run that could not tell about itself: what became of it, and its last words.
    #[must_use]
    pub fn of_crash(name: &str, seconds: f64, message: &str, text: &str) -> Self {
        let (kind, message) = ("crash".to_owned(), message.to_owned());
        let state = State::Failed { kind, message, text: text.to_owned() };
        Self { name: name.to_owned(), seconds, cases: vec![Case { name: "run".to_owned(), seconds, state }] }
    }

    /// The suite of a run that did not take place.
    #[must_use]
    pub fn skipped(name: &str) -> Self {
        let case = Case { name: "run".to_owned(), seconds: 0.0, state: State::Skipped };
        Self { name: name.to_owned(), seconds: 0.0, cases: vec![case] }
    }

    /// How many cases there are, have failed, and were skipped.
    fn counts(&self) -> [usize; 3] {
        let count = |is: fn(&State) -> bool| self.cases.iter().filter(|case| is(&case.state)).count();
        [
            self.cases.len(),
            count(|state| matches!(state, State::Failed { .. })),
            count(|state| matches!(state, State::Skipped)),
        ]
    }

    fn write(&self, xml: &mut String) {
        let suite = escape(&self.name);
        element(xml, "  <testsuite", &format!(" name=\"{suite}\""), self.counts(), self.seconds);
        for case in &self.cases {
            let (name, seconds) = (escape(&case.name), case.seconds);
            // Writing to a string cannot fail.
            let _ = write!(xml, "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\">");
            match &case.state {
                State::Passed => {}
                State::Skipped => *xml += "<skipped/>",
                State::Failed { kind, message, text } => {
                    let (kind, message, text) = (escape(kind), escape(message), escape(text));
                    let _ = write!(xml, "<failure type=\"{kind}\" message=\"{message}\">{text}</failure>");
                }
            }
            *xml += "</testcase>\n";
        }
        *xml += "  </testsuite>\n";
    }
}

/// The beginning of an element with its counts.
fn element(xml: &mut String, tag: &str, more: &str, [tests, failures, skipped]: [usize; 3], seconds: f64) {
    let _ = writeln!(
        xml,
        "{tag}{more} tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{seconds:.3}\">"
    );
}

/// The XML document of `suites`, which took `seconds` together.
#[must_use]
pub fn document(suites: &[Suite], seconds: f64) -> String {
    let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    let mut sum = [0; 3];
    for suite in suites {
        for (sum, count) in sum.iter_mut().zip(suite.counts()) {
            *sum += count;
        }
    }
    element(&mut xml, "<testsuites", "", sum, seconds);
    for suite in suites {
        suite.write(&mut xml);
    }
    xml + "</testsuites>\n"
}

/// `text` for an attribute or an element. XML 1.0 has no way to write most control characters (section
/// 2.2), so they become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&apos;",
            '\n' | '\t' | '\r' => {
                let _ = write!(escaped, "&#{};", u32::from(character));
            }
            '\0'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}' => escaped.push('\u{FFFD}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_xml() {
        assert_eq!(
            escape("a<b> & \"c\"\n\u{1b}\u{0}ä'"),
            "a&lt;b&gt; &amp; &quot;c&quot;&#10;\u{FFFD}\u{FFFD}ä&apos;"
        );
    }

    #[test]
    fn suites_are_added_up() {
        let suites = [Suite::skipped("a"), Suite::of_crash("b", 1.5, "killed", "x < y")];
        let text = document(&suites, 2.0);
        assert!(text.contains("<testsuites tests=\"2\" failures=\"1\" errors=\"0\" skipped=\"1\""), "{text}");
        assert!(text.contains("<failure type=\"crash\" message=\"killed\">x &lt; y</failure>"), "{text}");
        assert_eq!(text.matches("<testsuite ").count(), 2);
    }
}
