//! `ringway demo`: member clusters of real HTTP servers on loopback, the gateway before them, open-loop load; a
//! cluster is killed and comes back while one watches, and a report says what that cost.
//!
//! In the order of a run: [`manifests`] (which folder) → [`scene`] (pods, ports) → [`show`] (load, kill, return) →
//! [`ledger`] (what was seen) → [`view`] and [`report`] (how it is told, in [`text`]) → [`screen`]. No figure is made
//! up: each is counted by the load generator, the pods or the gateway during the run.

mod ledger;
mod manifests;
mod report;
mod scene;
mod screen;
mod show;
mod text;
mod timeline;
mod view;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use config::{Config, ListenAddr, LogLevel, Overrides, Protocol};
use crossbeam_channel::Receiver;
use signal_hook::consts::SIGUSR1;

use self::manifests::Folder;
use self::report::Facts;
use self::scene::{Plan, Request, Scene};
use self::screen::Screen;
use self::show::{Outcome, Show};
use self::text::{Line, Tone, plural, span};
use self::timeline::Timeline;
use self::view::Heading;
use super::{boot, run};

/// How long the gateway may take to answer its first request.
const START_MAX: Duration = Duration::from_secs(15);
/// How often it is asked until then.
const ASK_INTERVAL: Duration = Duration::from_millis(10);
/// What one such question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// What in-flight requests of a browser are given at the end.
const DRAIN: Duration = Duration::from_secs(2);

/// Settings of `demo`.
#[derive(Args, Clone, Debug)]
pub(super) struct DemoArgs {
    /// For how many seconds requests are sent; at 35 % of them a cluster is killed, at 60 % it comes back. 0 = none, with
    /// --serve.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=600))]
    seconds: u32,
    /// Requests per second.
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..=50_000))]
    rate: u32,
    /// Which cluster is killed. Default: beta, or the last one by name.
    #[arg(long, value_name = "CLUSTER")]
    kill: Option<String>,
    /// How many workers. Default: one for each core of the process's affinity mask.
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Serve these manifests; their pods must be on loopback. Default: config/examples/quickstart, built in.
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Stay up after the report, for curl and the browser, until Ctrl-C.
    #[arg(long)]
    serve: bool,
}

/// Runs the demo. The exit code is 1 when a request failed.
///
/// # Errors
/// What kept it from starting.
pub(super) fn main(args: &DemoArgs) -> Result<ExitCode, String> {
    // Only what a human must act on may break into the view; RINGWAY_LOG asks for more.
    let _ = boot::start_logging(LogLevel::Error);
    boot::check_kernel()?;
    if args.seconds == 0 && !args.serve {
        return Err("--seconds 0 sends no load; it needs --serve".to_owned());
    }
    let signals = run::watch_signals()?;
    let mut screen = Screen::new();
    let mut folder = Folder::open(args.manifests.as_deref())?;
    let mut scene = Scene::set(&mut folder)?;
    let victim = scene.plan.victim(args.kill.as_deref())?;
    announce_scene(&scene, &mut screen);
    let config = Arc::new(configure(args, &mut scene, &folder)?);
    let serving = run::Serving::start(&config)?;
    let mut code = ExitCode::SUCCESS;
    let is_up = wait_until_up(&serving, &scene, &signals, &mut screen)?;
    if is_up && args.seconds > 0 {
        let timeline = Timeline::of(Duration::from_secs(u64::from(args.seconds)));
        let workers = serving.node.stats.len();
        let heading = Heading { rate: args.rate, url: url(&scene.plan.target), workers, timeline };
        let show = Show { scene: &scene, node: &serving.node, heading, victim };
        screen.say_plain("");
        let outcome = show.run(&mut screen, &signals)?;
        tell(&outcome, &scene, victim, workers, &mut screen);
        if !report::is_clean(&outcome.summary) {
            code = ExitCode::FAILURE;
        }
    }
    if is_up && args.serve {
        invite(args, &scene, &config, &folder, &mut screen);
        while matches!(signals.recv(), Ok(SIGUSR1)) {}
        screen.say_plain("\n  stopping");
    }
    serving.stop(DRAIN, &signals)?;
    Ok(code)
}

fn announce_scene(scene: &Scene, screen: &mut Screen) {
    screen.say(&Line::default().with(Tone::Strong, "  Ringway demo"));
    for remark in &scene.remarks {
        screen.say(&Line::default().with(Tone::Warn, format!("  ! {remark}")));
    }
    let clusters = plural(scene.plan.members.len() as u64, "member cluster", "member clusters");
    let pods = plural(scene.plan.pods(), "pod", "pods");
    step(screen, &format!("{clusters} with {pods} that answer in 1–3 ms, one in 100 in 20–40 ms"));
    for (number, member) in scene.plan.members.iter().enumerate() {
        let addrs: Vec<_> = member.pods.iter().map(ToString::to_string).collect();
        let line = Line::default().with(Tone::Cluster(number), format!("      {:<9}", member.name));
        screen.say(&line.with(Tone::Quiet, format!(" {}", addrs.join("  "))));
    }
}

fn step(screen: &mut Screen, text: &str) {
    screen.say(&Line::default().with(Tone::Good, "  ✓ ").with(Tone::Plain, text));
}

fn configure(args: &DemoArgs, scene: &mut Scene, folder: &Folder) -> Result<Config, String> {
    let overrides = Overrides {
        listen: Some(vec![ListenAddr { addr: scene.listen, protocol: Protocol::Http }]),
        manifests: Some(folder.manifests().to_path_buf()),
        fleet_kubeconfig: None,
        workers: args.workers,
        admin: None,
    };
    let mut config = Config::load(None, &overrides).map_err(|error| error.to_string())?;
    // A gateway that runs on this machine keeps its own.
    config.admin.socket = folder.beside("admin.sock");
    config.admin.state_dir = folder.beside("state");
    if let Some(free) = scene.ports.settle(config.admin.listen)? {
        config.admin.listen.set_port(free);
    }
    Ok(config)
}

/// Asks until a pod answers through the gateway. `false`: a signal came first.
fn wait_until_up(
    serving: &run::Serving,
    scene: &Scene,
    signals: &Receiver<i32>,
    screen: &mut Screen,
) -> Result<bool, String> {
    let started = Instant::now();
    let target = &scene.plan.target;
    loop {
        if serving.view.read().synced && ask(target).is_some_and(|status| status == 200) {
            break;
        }
        if serving.node.has_lost_a_worker() {
            return Err("a worker has ended; RINGWAY_LOG=info says more".to_owned());
        }
        if started.elapsed() > START_MAX {
            let answer = ask(target).map_or("no answer".to_owned(), |status| format!("status {status}"));
            return Err(format!("{} gave {answer} within {START_MAX:?}", url(target)));
        }
        match signals.recv_timeout(ASK_INTERVAL) {
            Ok(SIGUSR1) | Err(_) => {}
            Ok(_) => return Ok(false),
        }
    }
    let workers = plural(serving.node.stats.len() as u64, "worker", "workers");
    let (view, took) = (serving.view.read(), span(started.elapsed()));
    let objects: usize = view.objects.values().sum();
    let objects = plural(objects as u64, "object", "objects");
    step(screen, &format!("gateway up after {took}: {workers}, {objects}, {} answers", url(target)));
    Ok(true)
}

/// The status of one GET, if there was an answer.
fn ask(request: &Request) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&request.addr, ASK_TIMEOUT).ok()?;
    stream.set_read_timeout(Some(ASK_TIMEOUT)).ok()?;
    let Request { host, path, addr } = request;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {host}:{}\r\nConnection: close\r\n\r\n", addr.port());
    stream.write_all(head.as_bytes()).ok()?;
    let mut status_line = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status_line).ok()?;
    std::str::from_utf8(&status_line).ok()?.rsplit(' ').next()?.parse().ok()
}

/// What a browser is given: `localhost` reaches the listener by IPv4 and IPv6.
fn url(request: &Request) -> String {
    format!("http://{}:{}{}", request.host, request.addr.port(), request.path)
}

fn tell(outcome: &Outcome, scene: &Scene, victim: usize, workers: usize, screen: &mut Screen) {
    let facts = Facts {
        ledger: &outcome.ledger,
        summary: &outcome.summary,
        executions: outcome.executions,
        victim_pods: scene.plan.members[victim].pods.len() as u64,
        workers: workers as u64,
    };
    report::lines(&facts).iter().for_each(|line| screen.say(line));
}

/// Where to go from here.
fn invite(args: &DemoArgs, scene: &Scene, config: &Config, folder: &Folder, screen: &mut Screen) {
    let Plan { members, listeners, target, .. } = &scene.plan;
    let mut say = |label: &str, text: String| {
        screen.say(&Line::default().with(Tone::Quiet, format!("  {label:<14}")).with(Tone::Plain, text));
    };
    say("", String::new());
    say("serving", url(target));
    say("", format!("curl -i {}", url(target)));
    // The example pins requests by this header; other manifests may not.
    if let Some(member) = members.first().filter(|_| args.manifests.is_none()) {
        say("", format!("curl -i -H 'x-cluster: {}' {}", member.name, url(target)));
    }
    for (name, addr) in listeners.iter().filter(|(_, addr)| addr.port() != target.addr.port()) {
        say("listener", format!("{name} on port {}", addr.port()));
    }
    let admin = config.admin.listen;
    if TcpStream::connect_timeout(&admin, ASK_TIMEOUT).is_ok() {
        say("admin", format!("http://{admin}/ (dashboard), http://{admin}/metrics"));
    }
    say("manifests", format!("{} (watched: an edit is live at once)", folder.manifests().display()));
    say("end", "Ctrl-C".to_owned());
}
