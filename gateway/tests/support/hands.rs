//! Programs of other hands: run with a deadline, skipped by name where they are not installed.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Is it there? Says so where it is not. `version` is what it is asked.
pub fn is_installed(program: &str, version: &str) -> bool {
    let found = Command::new(program).arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        println!("SKIPPED: {program} is not installed");
    }
    found.is_ok()
}

/// How a program ended, and what it printed, both streams.
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
}

pub fn run(program: &str, args: &[&str]) -> Ran {
    run_in(Path::new("."), program, args)
}

/// The same in a directory.
pub fn run_in(dir: &Path, program: &str, args: &[&str]) -> Ran {
    let mut child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let read = |stream: &mut dyn Read| {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    };
    // Both are read while it runs: a pipe that is full would stop it.
    let (out, err, code) = std::thread::scope(|scope| {
        let out = scope.spawn(move || read(&mut out));
        let err = scope.spawn(move || read(&mut err));
        let end = Instant::now() + PATIENCE;
        let code = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status.code();
            }
            if Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        };
        (out.join().unwrap(), err.join().unwrap(), code)
    });
    Ran { code, out: out + &err }
}

impl Ran {
    #[track_caller]
    pub fn says(&self, text: &str) -> &Self {
        assert!(self.out.contains(text), "{text:?} is not in what it says ({:?}):\n{}", self.code, self.out);
        self
    }

    #[track_caller]
    pub fn ended(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.out);
        self
    }
}
