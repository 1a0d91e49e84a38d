//! The JUnit report: a test suite of the run, with a test case a step.

use std::fmt::Write;

use super::Report;

/// The XML document.
pub(super) fn document(report: &Report) -> String {
    let suite = report.kernel.file.as_deref().unwrap_or("the built-in guest");
    let mut cases = String::new();
    let (mut count, mut failures, mut skipped) = (0, 0, 0);
    let mut case = |name: &str, seconds: f64, state: State| {
        count += 1;
        let (name, suite) = (escape(name), escape(suite));
        // Writing to a string cannot fail.
        let _ = write!(cases, "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"{seconds:.3}\">");
        match state {
            State::Passed => {}
            State::Skipped => {
                skipped += 1;
                cases += "<skipped/>";
            }
            State::Failed => {
                failures += 1;
                let message = escape(&report.message);
                let text = escape(&report.last_lines.join("\n"));
                let _ = write!(
                    cases,
                    "<failure type=\"{}\" message=\"{message}\">{text}</failure>",
                    report.outcome
                );
            }
        }
        cases += "</testcase>\n";
    };
    let end = report.times_ms.end;
    let mut blamed = false;
    for step in &report.steps {
        let name = match &step.name {
            Some(name) => format!("step {}: {name}", step.number),
            None => format!("step {}", step.number),
        };
        let begin = step.begin_ms.unwrap_or(end);
        let seconds = (step.end_ms.unwrap_or(end) - begin).max(0.0) / 1000.0;
        let state = match step.result {
            "failed" if report.status != 0 => {
                blamed = true;
                State::Failed
            }
            "failed" | "not-reached" => State::Skipped,
            _ => State::Passed,
        };
        case(&name, seconds, state);
    }
    if report.steps.is_empty() || (report.status != 0 && !blamed) {
        case("run", end / 1000.0, if report.status == 0 { State::Passed } else { State::Failed });
    }
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"{}\" tests=\"{count}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{:.3}\">\n{cases}  </testsuite>\n</testsuites>\n",
        escape(suite),
        end / 1000.0
    )
}

enum State {
    Passed,
    Skipped,
    Failed,
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
}
