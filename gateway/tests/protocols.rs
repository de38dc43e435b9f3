//! Real servers and clients of Debian through layer 4: PostgreSQL with and without PgBouncer, Redis, DNS. One that is not installed is skipped by
//! name; `scripts/test` installs them.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

mod support;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use config::Period;
use gateway::observe::layer4::Ended;
use routing::model::Protocol;
use rustix::process::{Pid, Signal, kill_process};
use support::backend::Backend;
use support::client::Client;
use support::table::World;
use support::{Gateway, PATIENCE, config, pass, until};

/// How long a server may take to start on a busy machine.
const START: Duration = Duration::from_secs(60);

fn has(program: &str, package: &str) -> bool {
    find(program, package).is_some()
}

/// Where a program is. Debian has servers where not everybody's PATH leads.
fn find(program: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.find_map(|folder| Some(folder.join(program)).filter(|file| file.exists()));
    if found.is_none() {
        println!("SKIPPED: {program} is not installed (Debian package {package})");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Two servers as two clusters: the second serves when the first does not.
fn before(first: SocketAddr, second: SocketAddr, protocol: Protocol) -> Gateway {
    Gateway::start(config(), |on| {
        World::new().cluster(0, &[first]).cluster(1, &[second]).layer4(protocol, |_| {}).on(on)
    })
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + START;
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A server process; killed when this is dropped.
struct Server(Child);

impl Server {
    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// With all that it has started, which would serve what is connected for a while longer: first who listens, so that
    /// nothing is accepted any more that nobody will answer. Stopped before, so that nobody is added meanwhile.
    fn kill_all(&mut self) {
        self.signal(Signal::STOP);
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        self.kill();
        for child in children.split_whitespace() {
            let child = Pid::from_raw(child.parse().unwrap()).unwrap();
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

// ---------------------------------------------------------------- PostgreSQL

/// `initdb` and `postgres` of the newest version that is installed, and whom they run as.
struct Postgres {
    bin: PathBuf,
    /// Of root only: PostgreSQL refuses to run as root.
    user: Option<(u32, u32)>,
}

impl Postgres {
    fn find() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql").ok();
        let mut bins: Vec<PathBuf> =
            versions.into_iter().flatten().flatten().map(|entry| entry.path().join("bin")).collect();
        bins.retain(|bin| bin.join("initdb").exists());
        bins.sort();
        let Some(bin) = bins.pop() else {
            println!("SKIPPED: initdb is not installed (Debian package postgresql)");
            return None;
        };
        if !has("psql", "postgresql-client") {
            return None;
        }
        let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
        let id = |what| {
            let out = Command::new("id").args([what, "postgres"]).output().unwrap();
            String::from_utf8_lossy(&out.stdout).trim().parse().ok()
        };
        let user = match is_root {
            false => None,
            true => match (id("-u"), id("-g")) {
                (Some(user), Some(group)) => Some((user, group)),
                (None, _) | (_, None) => {
                    println!("SKIPPED: there is no user postgres to run PostgreSQL as");
                    return None;
                }
            },
        };
        Some(Self { bin, user })
    }

    fn command(&self, program: &str) -> Command {
        self.run_as_user(&self.bin.join(program))
    }

    fn run_as_user(&self, program: &Path) -> Command {
        let Some((user, group)) = self.user else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &user.to_string(), "--regid", &group.to_string(), "--clear-groups"]);
        // Whoever dies first takes the server along.
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    }

    fn init(&self, data: &Path) {
        std::fs::create_dir_all(data).unwrap();
        if let Some((user, group)) = self.user {
            chown(data.parent().unwrap(), Some(user), Some(group)).unwrap();
            chown(data, Some(user), Some(group)).unwrap();
        }
        let mut command = self.command("initdb");
        command
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
            .arg(data);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    fn start(&self, data: &Path, port: u16) -> Server {
        let mut command = self.command("postgres");
        command.arg("-D").arg(data);
        let port = format!("port={port}");
        for setting in [
            "listen_addresses=127.0.0.1",
            &port,
            "unix_socket_directories=",
            "fsync=off",
            "shared_buffers=8MB",
            "max_connections=20",
        ] {
            command.args(["-c", setting]);
        }
        let out = (Stdio::null(), Stdio::null());
        Server(command.stdin(Stdio::null()).stdout(out.0).stderr(out.1).spawn().unwrap())
    }
}

/// One connection of a pool.
struct Psql {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Psql {
    fn open(port: u16) -> Self {
        let mut child = Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-qAtX"])
            .args(["-v", "ON_ERROR_STOP=1", "postgres"])
            .env("PGSSLMODE", "disable")
            .env("PGGSSENCMODE", "disable")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    /// Runs statements that answer with one line; `None` when the connection ended instead.
    fn run(&mut self, sql: &str) -> Option<String> {
        writeln!(self.input, "{sql}").ok()?;
        let mut line = String::new();
        match self.output.read_line(&mut line) {
            Ok(len) if len > 0 => Some(line.trim().to_owned()),
            Ok(_) | Err(_) => None,
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What became of a pool's work.
#[derive(Default)]
struct Tally {
    /// Clients that have done a transaction.
    begun: AtomicU32,
    /// Transactions that were acknowledged on the first connection of a client, and on later ones.
    done: [AtomicU32; 2],
    /// Transactions that ended without an answer.
    lost: AtomicU32,
    /// New connections that could not run a statement.
    refused: AtomicU32,
    /// The numbers of the second kind of `done`.
    later: Mutex<Vec<u32>>,
}

/// One client of a pool: transactions one after the other, a new connection when the old one ends.
fn work(client: u32, port: u16, tally: &Tally, stop: &AtomicBool) {
    let mut turn = 0;
    for generation in 0.. {
        let mut connection = Psql::open(port);
        if connection.run("SELECT 'hello';").as_deref() != Some("hello") {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            turn += 1;
            let number = client * 1_000_000 + turn;
            let sql = format!("BEGIN; INSERT INTO t VALUES ({number}); COMMIT; SELECT 'done';");
            if connection.run(&sql).as_deref() != Some("done") {
                tally.lost.fetch_add(1, Ordering::Relaxed);
                break;
            }
            tally.done[usize::from(generation > 0)].fetch_add(1, Ordering::Relaxed);
            tally.begun.fetch_add(u32::from(turn == 1), Ordering::Relaxed);
            if generation > 0 {
                tally.later.lock().unwrap().push(number);
            }
        }
    }
}

/// Two databases with an empty table each, one for each cluster, and a gateway before them.
struct Failover {
    postgres: Postgres,
    dir: PathBuf,
    ports: [u16; 2],
    servers: [Server; 2],
    gateway: Gateway,
}

impl Failover {
    fn start(name: &str) -> Option<Self> {
        let postgres = Postgres::find()?;
        let dir = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
        let data = [dir.join("first"), dir.join("second")];
        postgres.init(&data[0]);
        let copied = Command::new("cp").arg("-a").args(&data).output().unwrap();
        assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
        let ports = [free_port(), free_port()];
        let servers = [0, 1].map(|number| postgres.start(&data[number], ports[number]));
        for port in ports {
            wait_for("PostgreSQL serves", || Psql::open(port).run("SELECT 'up';").as_deref() == Some("up"));
            let made = Psql::open(port).run("CREATE TABLE t (n int PRIMARY KEY); SELECT 'made';");
            assert_eq!(made.as_deref(), Some("made"));
        }
        let gateway = before(local(ports[0]), local(ports[1]), Protocol::Tcp);
        Some(Self { postgres, dir, ports, servers, gateway })
    }

    /// Clients work through `port`, and the first database dies under them. Only what was in flight may be lost.
    fn die_under(&mut self, clients: u32, port: u16) {
        let (tally, stop) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let working: Vec<_> = (1..=clients)
            .map(|client| {
                let (tally, stop) = (Arc::clone(&tally), Arc::clone(&stop));
                std::thread::spawn(move || work(client, port, &tally, &stop))
            })
            .collect();
        let done = |kind: usize| tally.done[kind].load(Ordering::Relaxed);
        let begun = || tally.begun.load(Ordering::Relaxed) == clients;
        wait_for("the pool works", || begun() && done(0) >= 40);
        self.servers[0].kill_all();
        wait_for("the pool works elsewhere", || done(1) >= 40 || tally.refused.load(Ordering::Relaxed) > 0);
        stop.store(true, Ordering::Relaxed);
        working.into_iter().for_each(|client| client.join().unwrap());
        let log = std::fs::read_to_string(self.dir.join("pool.log")).unwrap_or_default();
        assert_eq!(tally.refused.load(Ordering::Relaxed), 0, "new connections never fail\n{log}");
        let lost = tally.lost.load(Ordering::Relaxed);
        assert!(lost <= clients, "{lost} lost: at most one transaction in flight for each client");
        // What was acknowledged is there.
        let mut direct = Psql::open(self.ports[1]);
        for number in tally.later.lock().unwrap().iter() {
            let sql = format!("SELECT count(*) FROM t WHERE n = {number};");
            assert_eq!(direct.run(&sql).as_deref(), Some("1"), "{number}");
        }
        let failed = [Ended::ConnectFailed, Ended::NoEndpoint];
        let failed = self.gateway.sum(|stats| failed.iter().map(|why| stats.layer4.ended(*why)).sum::<u64>());
        assert_eq!(failed, 0, "every connection that was opened got an endpoint");
    }
}

impl Drop for Failover {
    fn drop(&mut self) {
        self.servers.iter_mut().for_each(Server::kill);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A database fails over between two clusters, and its clients connect to it themselves.
#[test]
fn postgresql_clients_lose_only_what_was_in_flight_when_a_cluster_dies() {
    let Some(mut failover) = Failover::start("postgres") else { return };
    let port = failover.gateway.addr.port();
    failover.die_under(4, port);
}

/// The same with a pool of connections in front, which more clients share than it has connections: it finds out by itself
/// that those are gone, opens others, and whoever has no transaction in flight notices nothing.
#[test]
fn behind_a_connection_pool_a_database_fails_over_and_only_what_was_in_flight_fails() {
    let Some(pgbouncer) = find("pgbouncer", "pgbouncer") else { return };
    let Some(mut failover) = Failover::start("pool") else { return };
    let (port, log) = (free_port(), failover.dir.join("pool.log"));
    let settings = [
        "[databases]",
        &format!("postgres = host=127.0.0.1 port={} user=postgres", failover.gateway.addr.port()),
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        &format!("listen_port = {port}"),
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        "default_pool_size = 4",
        "server_tls_sslmode = disable",
        // A connection that has died meanwhile is found before anybody's statement goes there.
        "server_check_delay = 0",
        &format!("logfile = {}", log.display()),
    ];
    let file = failover.dir.join("pool.ini");
    std::fs::write(&file, settings.join("\n")).unwrap();
    let mut command = failover.postgres.run_as_user(&pgbouncer);
    let command =
        command.arg("-q").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let pool = Server(command.spawn().unwrap());
    wait_for("the pool serves", || Psql::open(port).run("SELECT 'up';").as_deref() == Some("up"));

    // They have used all of the pool's connections at once, and hold none: the pool logs in nowhere when the server dies.
    // After a login that failed it refuses everybody for a while by itself.
    let mut idle: Vec<_> = (0..4).map(|_| Psql::open(port)).collect();
    let insert = |number: u32| format!("BEGIN; INSERT INTO t VALUES ({number}); COMMIT; SELECT 'done';");
    for client in &mut idle {
        assert_eq!(client.run("BEGIN; SELECT 'held';").as_deref(), Some("held"));
    }
    for client in &mut idle {
        assert_eq!(client.run("COMMIT; SELECT 'done';").as_deref(), Some("done"));
    }
    failover.die_under(8, port);
    for (number, client) in (101..).zip(&mut idle) {
        assert_eq!(client.run(&insert(number)).as_deref(), Some("done"), "idle client {number}");
    }
    let of_gateway = failover.gateway.sum(|stats| stats.layer4.connections_total.get());
    let log = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(
        (2..40).contains(&of_gateway),
        "{of_gateway} connections of the pool: few, and used again\n{log}"
    );
    assert!(!log.contains("connect failed") && !log.contains("login failed"), "{log}");
    drop(pool);
}

// ---------------------------------------------------------------- Redis

fn redis(port: u16) -> Server {
    let server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .args(["--dir", &std::env::temp_dir().to_string_lossy()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server(server);
    wait_for("Redis serves", || TcpStream::connect(local(port)).is_ok());
    server
}

#[test]
fn redis_answers_pipelined_commands_in_order_and_another_cluster_takes_over() {
    if !has("redis-server", "redis-server") || !has("redis-cli", "redis-tools") {
        return;
    }
    let ports = [free_port(), free_port()];
    let mut servers = ports.map(redis);
    let gateway = before(local(ports[0]), local(ports[1]), Protocol::Tcp);
    let mut client = Client::connect(gateway.addr);
    let count = 2_000;
    let commands: String =
        (0..count).map(|n| format!("SET key{n} value{n}\r\nGET key{n}\r\n")).collect::<Vec<_>>().concat();
    let answers: String = (0..count)
        .map(|n| format!("+OK\r\n${}\r\nvalue{n}\r\n", format!("value{n}").len()))
        .collect::<Vec<_>>()
        .concat();
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(commands.as_bytes()).unwrap());
    assert!(client.exactly(answers.len()).unwrap() == answers.as_bytes(), "every answer, in order");
    sending.join().unwrap();

    let cli = |args: &[&str]| {
        let port = gateway.addr.port().to_string();
        let out =
            Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(args).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    assert_eq!(cli(&["GET", "key7"]), "value7");
    servers[0].kill();
    // Another database, and empty; but not one connection is refused.
    for n in 0..20 {
        assert_eq!(cli(&["PING"]), "PONG", "connection {n}");
    }
    assert_eq!(cli(&["EXISTS", "key7"]), "0");
    let failed = [Ended::ConnectFailed, Ended::NoEndpoint];
    assert_eq!(gateway.sum(|stats| failed.iter().map(|why| stats.layer4.ended(*why)).sum()), 0);
}

/// Stopped, not dead: its kernel accepts and acknowledges. No health check, one question at a time; a client that waits for
/// a job as long as it takes is nobody's fault.
#[test]
fn a_stopped_redis_is_left_by_new_connections_and_taken_back() {
    if !has("redis-server", "redis-server") {
        return;
    }
    let ports = [free_port(), free_port()];
    let servers = ports.map(redis);
    let gateway = before(local(ports[0]), local(ports[1]), Protocol::Tcp);
    let ask = |on: SocketAddr, command: &str| -> std::io::Result<String> {
        let mut stream = TcpStream::connect(on)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(command.as_bytes())?;
        let mut answer = [0; 64];
        let n = stream.read(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[..n]).into_owned())
    };
    for (port, name) in ports.into_iter().zip(["1", "2"]) {
        assert_eq!(ask(local(port), &format!("SET who {name}\r\n")).unwrap(), "+OK\r\n");
    }
    let who = || ask(gateway.addr, "GET who\r\n");
    for _ in 0..64 {
        assert_eq!(who().unwrap(), "$1\r\n1\r\n");
    }
    let mut workers: Vec<_> = (0..8).map(|_| Client::connect(gateway.addr)).collect();
    for worker in &mut workers {
        worker.send("PING\r\n");
        assert_eq!(worker.exactly(7).unwrap(), b"+PONG\r\n");
        worker.send("BLPOP jobs 0\r\n");
    }
    pass(Duration::from_millis(300));
    let verdicts = || gateway.sum(|stats| stats.verdicts_total.get());
    assert_eq!(verdicts(), 0, "to wait for a job is not to hang");
    assert_eq!(who().unwrap(), "$1\r\n1\r\n");

    servers[0].signal(Signal::STOP);
    // What Redis may have got is not sent to another one.
    let error = who().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    for _ in 0..50 {
        assert_eq!(who().unwrap(), "$1\r\n2\r\n");
    }
    assert!(workers.iter_mut().all(|worker| worker.exactly(1).is_err()), "its connections are reset");
    servers[0].signal(Signal::CONT);
    until("it is used again", || who().is_ok_and(|answer| answer == "$1\r\n1\r\n"));
}

// ---------------------------------------------------------------- a shell

/// As a shell is used: keys one by one with rests, in which nothing is held for it, and now and then a screenful.
#[test]
fn a_long_session_of_keys_rests_and_bursts_loses_no_byte_and_raises_nothing() {
    let shell = Backend::raw(|peer| {
        peer.send("login: ");
        while peer.more().is_some() {
            let typed = peer.take_pending();
            let is_command = typed.ends_with(b"\n");
            peer.send(typed);
            if is_command {
                peer.send(vec![b'x'; 512 << 10]);
            }
        }
    });
    let mut config = config();
    config.timeouts.buffer_idle = Period::millis(5);
    let (addr, standby) = (shell.addr, Backend::raw(|peer| peer.drained()));
    let world = World::new().cluster(0, &[addr]).cluster(1, &[standby.addr]);
    let gateway = Gateway::start(config, |on| world.layer4(Protocol::Tcp, |_| {}).on(on));
    let mut sessions: Vec<_> = (0..6).map(|_| Client::connect(gateway.addr)).collect();
    for session in &mut sessions {
        assert_eq!(session.exactly(7).unwrap(), b"login: ");
    }
    for round in 0..4 {
        for key in "ls -l".bytes() {
            for session in &mut sessions {
                session.send([key]);
                assert_eq!(session.exactly(1).unwrap(), [key], "round {round}");
            }
            pass(Duration::from_millis(15));
        }
        for session in &mut sessions {
            session.send("\n");
        }
        for session in &mut sessions {
            let screen = session.exactly(1 + (512 << 10)).unwrap();
            assert!(screen[0] == b'\n' && screen[1..].iter().all(|byte| *byte == b'x'));
        }
    }
    // A rest in which every buffer goes back; and a client that waits for a command that takes its time.
    until("nothing is held", || gateway.sum(|stats| stats.buffer_bytes.get()) == 0);
    let suspected = gateway.sum(|stats| stats.suspicions_total.get() + stats.verdicts_total.get());
    assert_eq!((suspected, standby.connections()), (0, 0));
}

// ---------------------------------------------------------------- DNS

/// A name server that knows one address for every name (RFC 1035 §4.1).
struct NameServer {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl NameServer {
    fn start(address: [u8; 4]) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let (addr, stop) = (socket.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((len, peer)) = socket.recv_from(&mut buf) else { continue };
                if let Some(answer) = answer(&buf[..len], address) {
                    let _ = socket.send_to(&answer, peer);
                }
            }
        });
        Self { addr, stop, thread: Some(thread) }
    }

    /// Its host says from now on that nobody listens.
    fn leave(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.leave();
    }
}

fn answer(query: &[u8], address: [u8; 4]) -> Option<Vec<u8>> {
    let mut end = 12;
    while *query.get(end)? != 0 {
        end += usize::from(query[end]) + 1;
    }
    let question = query.get(12..end + 5)?;
    let header = [&query[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]].concat();
    let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4][..], &address].concat();
    Some([&header, question, &record].concat())
}

#[test]
fn dig_gets_every_answer_with_one_try_while_a_name_server_goes_away() {
    if !has("dig", "bind9-dnsutils") {
        return;
    }
    let (mut first, second) = (NameServer::start([192, 0, 2, 1]), NameServer::start([192, 0, 2, 2]));
    let gateway = before(first.addr, second.addr, Protocol::Udp);
    let dig = |name: &str| {
        let port = gateway.addr.port().to_string();
        let out = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=10", "+short", name, "A"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    for n in 0..5 {
        assert_eq!(dig(&format!("host-{n}.example")), "192.0.2.1");
    }
    first.leave();
    for n in 0..5 {
        assert_eq!(dig(&format!("host-{n}.example")), "192.0.2.2", "query {n}");
    }
    assert_eq!(gateway.sum(|stats| stats.layer4.flows_total.get()), 10);
    until("there is a verdict", || gateway.sum(|stats| stats.verdicts_total.get()) > 0);
}
