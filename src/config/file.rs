//! The TOML file: its keys, and errors that name the line.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin, ValueError};
use super::reaction::{parse_on_hang, parse_reaction};
use super::{SerialBackend, Settings, value};
use crate::script::{Pattern, Step, unescape};

/// The keys of the file, as they are offered when one is unknown.
const KEYS: [&str; 26] = [
    "kernel",
    "initrd",
    "cmdline",
    "modules",
    "flat",
    "decompress",
    "memory",
    "cpus",
    "accel",
    "serial",
    "timeout",
    "debug_exit",
    "on_reset",
    "on_shutdown",
    "on_crash",
    "on_panic",
    "on_hang",
    "grace",
    "fail_on",
    "succeed_on",
    "expect_status",
    "step",
    "report",
    "junit",
    "log",
    "timestamps",
];
/// The keys of a `[[step]]`.
const STEP_KEYS: [&str; 4] = ["name", "expect", "send", "timeout"];
/// The keys of a table in `modules`.
const MODULE_KEYS: [&str; 2] = ["path", "cmdline"];

/// Parses `text`, the content of the file at `path`.
pub(super) fn parse(text: &str, path: &Path) -> Result<Settings, ConfigError> {
    let file = File { text, path, folder: path.parent().unwrap_or(Path::new("")) };
    let document = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        line: file.line(error.span().unwrap_or_default()),
        reason: error.message().replace('\n', ", "),
    })?;
    let mut settings = Settings::default();
    for (key, value) in document.get_ref() {
        let name: &str = key.get_ref();
        let entry = Entry { file: &file, key: name, value };
        match name {
            "kernel" => settings.kernel = Some(entry.path()?),
            "initrd" => settings.initrd = Some(entry.path()?),
            "cmdline" => settings.cmdline = Some(entry.string()?.to_owned()),
            "modules" => {
                settings.modules =
                    Some(entry.list().iter().map(Entry::module).collect::<Result<_, ConfigError>>()?);
            }
            "flat" => settings.flat = Some(entry.parsed(value::parse_flat)?),
            "decompress" => settings.decompress = Some(entry.boolean()?),
            "memory" => settings.memory = Some(entry.parsed(value::parse_memory)?),
            "cpus" => settings.cpus = Some(entry.parsed(value::parse_cpus)?),
            "accel" => settings.accel = Some(entry.parsed(value::parse_accel)?),
            "serial" => {
                settings.serial =
                    Some(entry.list().iter().map(Entry::serial).collect::<Result<_, ConfigError>>()?);
            }
            "timeout" => settings.timeout = Some(entry.parsed(value::parse_timeout)?),
            "debug_exit" => settings.debug_exit = Some(entry.parsed(value::parse_debug_exit)?),
            "on_reset" => settings.on_reset = Some(entry.parsed(parse_reaction)?),
            "on_shutdown" => settings.on_shutdown = Some(entry.parsed(parse_reaction)?),
            "on_crash" => settings.on_crash = Some(entry.parsed(parse_reaction)?),
            "on_panic" => settings.on_panic = Some(entry.parsed(parse_reaction)?),
            "on_hang" => settings.on_hang = Some(entry.parsed(parse_on_hang)?),
            "grace" => settings.grace = Some(entry.parsed(value::parse_timeout)?),
            "fail_on" => settings.fail_on = Some(entry.patterns()?),
            "succeed_on" => settings.succeed_on = Some(entry.patterns()?),
            "expect_status" => settings.expect_status = Some(entry.parsed(value::parse_status)?),
            "report" => settings.report = Some(entry.path_or_stdout()?),
            "junit" => settings.junit = Some(entry.path_or_stdout()?),
            "log" => settings.log = Some(entry.path()?),
            "timestamps" => settings.timestamps = Some(entry.boolean()?),
            "step" => {
                settings.steps =
                    Some(entry.list().iter().map(Entry::step).collect::<Result<_, ConfigError>>()?);
            }
            _ => return Err(file.unknown_key(name, key.span(), &KEYS)),
        }
    }
    Ok(settings)
}

/// The file, for the errors.
struct File<'a> {
    text: &'a str,
    path: &'a Path,
    folder: &'a Path,
}

impl File<'_> {
    /// The line, from 1, at which `span` starts.
    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().iter().take(span.start);
        1 + before.filter(|byte| **byte == b'\n').count()
    }

    fn unknown_key(&self, key: &str, span: Range<usize>, known: &[&str]) -> ConfigError {
        let nearest = known
            .iter()
            .map(|name| (strsim::damerau_levenshtein(key, name), name))
            .min()
            .filter(|(distance, name)| *distance <= 1 + name.len() / 3);
        let remedy = match nearest {
            Some((_, name)) => format!("did you mean `{name}`?"),
            None => format!("the keys are {}", known.join(", ")),
        };
        ConfigError::UnknownKey {
            key: key.escape_debug().to_string(),
            path: self.path.to_owned(),
            line: self.line(span),
            remedy,
        }
    }
}

/// A value in the file, with what is needed to say what is wrong with it.
struct Entry<'a, 'i> {
    file: &'a File<'a>,
    key: &'a str,
    value: &'a Spanned<DeValue<'i>>,
}

impl<'a, 'i> Entry<'a, 'i> {
    fn invalid(&self, problem: ValueError) -> ConfigError {
        let span = self.value.span();
        let written = self.file.text.get(span.clone()).unwrap_or_default();
        ConfigError::Invalid {
            origin: Box::new(Origin::Key {
                key: self.key.to_owned(),
                value: written.to_owned(),
                path: self.file.path.to_owned(),
                line: self.file.line(span),
            }),
            problem,
        }
    }

    fn string(&self) -> Result<&str, ConfigError> {
        self.value
            .get_ref()
            .as_str()
            .ok_or_else(|| self.invalid(ValueError::new("not a string", "Put it in quotes")))
    }

    fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| {
            self.invalid(ValueError::new("neither true nor false", "Write `true` or `false` without quotes"))
        })
    }

    /// A file's path, relative to the configuration file's folder.
    fn path(&self) -> Result<PathBuf, ConfigError> {
        match self.string()? {
            "" => Err(self.invalid(ValueError::new("no file name", "Write a path, or leave the key out"))),
            path => Ok(self.file.folder.join(path)),
        }
    }

    /// A file's path as [`Self::path`] has it, or `-`.
    fn path_or_stdout(&self) -> Result<PathBuf, ConfigError> {
        if self.string()? == "-" { Ok("-".into()) } else { self.path() }
    }

    /// A string or a number, read as the flag of the same name reads it.
    fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, ValueError>) -> Result<T, ConfigError> {
        let result = match self.value.get_ref() {
            DeValue::String(text) => parse(text),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => parse(&number.to_string()),
                Err(_) => Err(ValueError::new("too large", "Write a smaller number")),
            },
            DeValue::Float(number) => parse(number.as_str()),
            _ => Err(ValueError::new(
                "neither a string nor a number",
                "Write it in quotes, as the flag has it",
            )),
        };
        result.map_err(|problem| self.invalid(problem))
    }

    /// The elements of an array; any other value is an array of itself.
    fn list(&self) -> Vec<Entry<'a, 'i>> {
        let entry = |value| Entry { file: self.file, key: self.key, value };
        match self.value.get_ref() {
            DeValue::Array(elements) => elements.iter().map(entry).collect(),
            _ => vec![entry(self.value)],
        }
    }

    fn serial(&self) -> Result<Option<SerialBackend>, ConfigError> {
        Ok(match self.parsed(value::parse_serial)? {
            Some(SerialBackend::File(path)) => Some(SerialBackend::File(self.file.folder.join(path))),
            Some(SerialBackend::Unix(path)) => Some(SerialBackend::Unix(self.file.folder.join(path))),
            other => other,
        })
    }

    fn pattern(&self) -> Result<Pattern, ConfigError> {
        Pattern::new(self.string()?).map_err(|problem| self.invalid(problem))
    }

    fn patterns(&self) -> Result<Vec<Pattern>, ConfigError> {
        self.list().iter().map(Entry::pattern).collect()
    }

    /// A step: `{ expect = "…", send = "…" }`, usually written as `[[step]]`.
    fn step(&self) -> Result<Step, ConfigError> {
        const REMEDY: &str = "Write `[[step]]` and below it `expect = \"REGEX\"`, `send = \"TEXT\"`, or both";
        let DeValue::Table(table) = self.value.get_ref() else {
            return Err(self.invalid(ValueError::new("not a step", REMEDY)));
        };
        let mut step = Step::default();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let entry = Entry { file: self.file, key: name, value };
            match name {
                "name" => step.name = Some(entry.string()?.to_owned()),
                "expect" => step.expect = Some(entry.pattern()?),
                "send" => step.send = Some(entry.parsed(unescape)?),
                "timeout" => step.timeout = Some(entry.parsed(value::parse_timeout)?),
                _ => return Err(self.file.unknown_key(name, key.span(), &STEP_KEYS)),
            }
        }
        if step.expect.is_none() && step.send.is_none() {
            return Err(self.invalid(ValueError::new("a step that neither waits nor types", REMEDY)));
        }
        Ok(step)
    }

    /// A module: `"PATH,COMMAND LINE"` or `{ path = "…", cmdline = "…" }`.
    fn module(&self) -> Result<super::Module, ConfigError> {
        let DeValue::Table(table) = self.value.get_ref() else {
            let module = self.parsed(value::parse_module)?;
            return Ok(super::Module { path: self.file.folder.join(module.path), ..module });
        };
        let mut path = None;
        let mut cmdline = String::new();
        for (key, value) in table {
            let name: &str = key.get_ref();
            let entry = Entry { file: self.file, key: name, value };
            match name {
                "path" => path = Some(entry.path()?),
                "cmdline" => entry.string()?.clone_into(&mut cmdline),
                _ => return Err(self.file.unknown_key(name, key.span(), &MODULE_KEYS)),
            }
        }
        match path {
            Some(path) => Ok(super::Module { path, cmdline }),
            None => Err(self.invalid(ValueError::new("a module without a path", "Add `path = \"FILE\"`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::AccelKind;
    use crate::config::{DebugExit, Flat, FlatMode, Module, Reaction};
    use proptest::prelude::*;
    use std::time::Duration;

    fn settings(text: &str) -> Settings {
        parse(text, Path::new("/vms/vm.toml")).unwrap()
    }

    fn message(text: &str) -> String {
        let message = parse(text, Path::new("vm.toml")).expect_err(text).to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn every_key_is_read() {
        let settings = settings(
            r#"
            kernel = "vmlinuz"
            initrd = "/abs/initrd"
            cmdline = "console=ttyS0 quiet"
            modules = ["m1,with a line", { path = "m2", cmdline = "x" }]
            flat = 0x7c00
            decompress = false
            memory = 256
            cpus = 2
            accel = "soft"
            serial = ["stdio", "file:com2.log", "unix:com3", "pty"]
            timeout = 1.5
            debug_exit = "qemu"
            on_reset = "reboot"
            on_shutdown = "exit:3"
            on_crash = "exit"
            on_panic = "exit:0"
            on_hang = "wait"
            grace = "10s"
            fail_on = "Oops"
            succeed_on = ["yes", "ok"]
            expect_status = 120
            report = "-"
            junit = "junit.xml"
            log = "/log"
            timestamps = true
            [[step]]
            name = "login"
            expect = "login: "
            send = "root\\n"
            timeout = 2
            [[step]]
            send = '\x03'
            "#,
        );
        let expected = Settings {
            kernel: Some("/vms/vmlinuz".into()),
            initrd: Some("/abs/initrd".into()),
            cmdline: Some("console=ttyS0 quiet".into()),
            modules: Some(vec![
                Module { path: "/vms/m1".into(), cmdline: "with a line".into() },
                Module { path: "/vms/m2".into(), cmdline: "x".into() },
            ]),
            flat: Some(Flat { address: 0x7c00, mode: FlatMode::Real }),
            decompress: Some(false),
            memory: Some(256 << 20),
            cpus: Some(2),
            accel: Some(AccelKind::Soft),
            serial: Some(vec![
                Some(SerialBackend::Stdio),
                Some(SerialBackend::File("/vms/com2.log".into())),
                Some(SerialBackend::Unix("/vms/com3".into())),
                Some(SerialBackend::Pty),
            ]),
            timeout: Some(Duration::from_millis(1500)),
            debug_exit: Some(DebugExit::Qemu),
            on_reset: Some(Reaction::Reboot),
            on_shutdown: Some(Reaction::Exit(Some(3))),
            on_crash: Some(Reaction::Exit(None)),
            on_panic: Some(Reaction::Exit(Some(0))),
            on_hang: Some(Reaction::Wait),
            grace: Some(Duration::from_secs(10)),
            fail_on: Some(vec![Pattern::new("Oops").unwrap()]),
            succeed_on: Some(vec![Pattern::new("yes").unwrap(), Pattern::new("ok").unwrap()]),
            expect_status: Some(120),
            report: Some("-".into()),
            junit: Some("/vms/junit.xml".into()),
            log: Some("/log".into()),
            timestamps: Some(true),
            steps: Some(vec![
                Step {
                    name: Some("login".into()),
                    expect: Some(Pattern::new("login: ").unwrap()),
                    send: Some(b"root\n".to_vec()),
                    timeout: Some(Duration::from_secs(2)),
                },
                Step { send: Some(vec![3]), ..Step::default() },
            ]),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_key() {
        assert_eq!(
            message("cpus = 1\n\nmemroy = \"1G\"\n"),
            "unknown key `memroy` in vm.toml line 3; did you mean `memory`?"
        );
        assert!(message("zebra_crossing = 1").contains("the keys are kernel, initrd"));
        assert!(message("modules = [{ pth = 'x' }]").contains("did you mean `path`?"));
        assert!(message("[vm]\ncpus = 1").contains("unknown key `vm` in vm.toml line 1"));
    }

    #[test]
    fn a_bad_value_names_key_value_line_and_remedy() {
        assert_eq!(
            message("cpus = 1\nmemory = \"0\""),
            "`memory = \"0\"` in vm.toml line 2: a machine needs 1 MiB of RAM at least. Give it more, such as `512M`"
        );
        for (text, word) in [
            ("cpus = 2000", "`cpus = 2000` in vm.toml line 1"),
            ("cpus = -1", "`cpus = -1`"),
            ("cpus = 1.5", "`cpus = 1.5`"),
            ("cpus = 99999999999999999999", "vm.toml line 1"),
            ("cmdline = 1", "Put it in quotes"),
            ("decompress = \"yes\"", "neither true nor false"),
            ("kernel = \"\"", "no file name"),
            ("accel = \"xen\"", "`kvm`"),
            ("serial = [\"stdio\",\n\"tty\"]", "`serial = \"tty\"` in vm.toml line 2"),
            ("modules = [{ cmdline = \"x\" }]", "Add `path"),
            ("timeout = true", "neither a string nor a number"),
            ("memory = \"1\\u0000\"", "not a memory size"),
            (
                "cpus = 1\n[[step]]\nexpect = '('",
                "`expect = '('` in vm.toml line 3: not a regular expression",
            ),
            ("[[step]]\nname = 'x'", "neither waits nor types"),
            ("[[step]]\nsend = 'x'\ntimeout = -1", "`timeout = -1` in vm.toml line 3"),
            ("[[step]]\nsend = '\\q'", "no escape"),
            ("[[step]]\nexpct = 'x'", "did you mean `expect`?"),
            ("step = 'x'", "not a step"),
            ("fail_on = ['ok', 'x*']", "`fail_on = 'x*'` in vm.toml line 1"),
            ("on_hang = 'reboot'", "Write `wait`"),
            ("cpus = 1\nexpect_status = 256", "`expect_status = 256` in vm.toml line 2: not an exit status"),
            ("expect_status = 'panic'", "not an exit status"),
        ] {
            let message = message(text);
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn broken_toml_names_the_line() {
        assert!(message("cpus = 1\nmemory = = 3").contains("vm.toml line 2 is not valid TOML"));
        assert!(message("cpus = 1\ncpus = 2").contains("line 2"));
        assert!(message("cpus").contains("not valid TOML"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(memory|cpus|serial|modules|[a-z]{1,9}) ?= ?[\\[{]?[\"']?\\PC{0,12}[\"']?[\\]}]?\\n?") {
            let _ = parse(&text, Path::new("vm.toml"));
        }
    }
}
