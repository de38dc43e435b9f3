//! `ringway completions SHELL`.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, table};

/// Which shell.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  ringway completions bash > /etc/bash_completion.d/ringway\n  ringway completions zsh > \"${fpath[1]}/_ringway\"\n  ringway completions fish > ~/.config/fish/completions/ringway.fish"
)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: Shell,
}

/// Prints the script.
pub fn main(args: &CompletionsArgs) -> Result<ExitCode, String> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ringway", &mut script);
    table::print(&String::from_utf8_lossy(&script)).map(|()| ExitCode::SUCCESS)
}
