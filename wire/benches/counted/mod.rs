//! Runs one hot path so many times, for `scripts/instructions` to count what it costs: instructions, not seconds. The
//! programs of all crates share this.
//!
//! `instructions` alone names the paths; `instructions PATH ROUNDS` runs one. What setting it up costs is the same
//! for any number of rounds, so the difference of two counts is that of the rounds.

use std::process::ExitCode;

/// A path: its name, and what runs it so many times.
pub(crate) type Path = (&'static str, fn(u32));

/// What `main` does.
pub(crate) fn run(paths: &[Path]) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [path, rounds] = args.as_slice() else {
        paths.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let found = paths.iter().find(|(name, _)| name == path);
    match (found, rounds.parse()) {
        (Some((_, run)), Ok(rounds)) => {
            run(rounds);
            ExitCode::SUCCESS
        }
        (None, _) => {
            eprintln!("{path}: no such path; run without arguments for their names");
            ExitCode::FAILURE
        }
        (Some(_), Err(why)) => {
            eprintln!("{rounds}: not a number of rounds: {why}");
            ExitCode::FAILURE
        }
    }
}
