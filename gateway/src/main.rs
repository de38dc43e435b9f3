//! The one binary: assembles configuration, data plane, controller and admin, and offers the commands.

#![allow(unreachable_pub, reason = "nothing imports a binary; `pub` is a module's face to its siblings")]

mod cli;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
