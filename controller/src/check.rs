//! A directory of manifests, or what a hub and its members hold, read once and judged: `ringway check`, `ringway explain --manifests`,
//! `ringway plan`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use routing::delta::RouteTable;

use crate::compile::listen::Listen;
use crate::compile::{Compiler, CompilerSettings, Defaults};
use crate::dump;
use crate::merge::Loopback;
use crate::verdict::{Outcome, Verdict};
use crate::view::SharedView;
use crate::watch::Observation;
use crate::watch::files::Directory;
use crate::watch::fleet::{Before, FleetSettings, FleetWatch};
use crate::world::World;

/// How long a hub and its members may take to tell everything.
const FLEET_PATIENCE: Duration = Duration::from_secs(30);
/// Statistics slots of an offline compile; they are not used there.
const SERIES_MAX: u32 = 100_000;

/// What became of every object of a directory.
#[derive(Debug)]
pub struct CheckReport {
    /// By file, then by object.
    pub verdicts: Vec<Verdict>,
    /// Endpoints that routes refer to, by member cluster.
    pub endpoints: BTreeMap<Arc<str>, usize>,
    /// What policies made of them.
    pub in_force: InForce,
}

/// What operators and policies say, by name, where that is not the default.
#[derive(Debug, Default)]
pub struct InForce {
    /// Clusters: drained, promoted, bounded.
    pub clusters: BTreeMap<Arc<str>, String>,
    /// Backends: detection, checks, failback.
    pub backends: BTreeMap<Arc<str>, String>,
    /// Rules: hedging, spill, panic, shedding, writes.
    pub routes: BTreeMap<String, String>,
}

impl InForce {
    fn of(table: &RouteTable) -> Self {
        let clusters = table.clusters.values().map(|cluster| {
            let standing = dump::standing(cluster);
            (cluster.name.clone(), if standing.is_empty() { standing } else { format!(",{standing}") })
        });
        let backends = table
            .backends
            .values()
            .map(|backend| (backend.name.clone(), dump::detection(&backend.detection)));
        let rules = table.hosts.values().flat_map(|host| &host.rules).map(|rule| {
            let action = &rule.action;
            (format!("{} rules[{}]", action.route, action.rule_index), dump::choice(&action.policy))
        });
        Self {
            clusters: clusters.collect(),
            backends: backends.filter(|(_, says)| !says.is_empty()).collect(),
            routes: rules.filter(|(_, says)| !says.is_empty()).collect(),
        }
    }
}

impl CheckReport {
    /// Was any object refused, wholly or partly?
    #[must_use]
    pub fn refused(&self) -> bool {
        self.verdicts.iter().any(|verdict| verdict.outcome >= Outcome::PartlyRefused)
    }

    /// How many objects had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.verdicts.iter().filter(|verdict| verdict.outcome == outcome).count()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut file: Option<&str> = None;
        for verdict in &self.verdicts {
            if file != Some(&verdict.origin) {
                let shown = if verdict.origin.is_empty() { "(directory)" } else { &verdict.origin };
                writeln!(f, "{}{shown}", if file.is_some() { "\n" } else { "" })?;
                file = Some(&verdict.origin);
            }
            let object = verdict.object.as_ref().map_or("(file)".to_owned(), ToString::to_string);
            writeln!(f, "  {:<15} {object}", verdict.outcome)?;
            for note in &verdict.notes {
                let field = if note.field.is_empty() { String::new() } else { format!("{}: ", note.field) };
                let value =
                    if note.value.is_empty() { String::new() } else { format!("\"{}\": ", note.value) };
                writeln!(f, "  {:<15}   {field}{value}{}", "", note.reason)?;
            }
        }
        let outcomes = [Outcome::Accepted, Outcome::PartlyIgnored, Outcome::PartlyRefused, Outcome::Refused];
        let counts: Vec<String> =
            outcomes.iter().map(|outcome| format!("{} {outcome}", self.count(*outcome))).collect();
        writeln!(f, "\n{}", counts.join(", "))?;
        for (cluster, count) in &self.endpoints {
            let standing = self.in_force.clusters.get(cluster).map(String::as_str).unwrap_or_default();
            writeln!(f, "cluster {cluster}: {count} endpoints in use{standing}")?;
        }
        for (name, says) in &self.in_force.backends {
            writeln!(f, "backend {name}:{says}")?;
        }
        for (name, says) in &self.in_force.routes {
            writeln!(f, "{name}:{says}")?;
        }
        Ok(())
    }
}

/// Judges every object of a directory. `listen`: where Ingress rules would be served.
#[must_use]
pub fn check_dir(dir: &Path, listen: &[impl Into<Listen> + Copy]) -> CheckReport {
    compile_dir(dir, listen, &Defaults::default()).1
}

/// Compiles a directory: the very table that `ringway run` with these defaults would serve, and what became of every object.
#[must_use]
pub fn compile_dir(
    dir: &Path,
    listen: &[impl Into<Listen> + Copy],
    defaults: &Defaults,
) -> (RouteTable, CheckReport) {
    let mut world = World::default();
    for observation in Directory::new(dir).scan() {
        world.observe(observation);
    }
    world.observe(Observation::Synced);
    compile(&mut world, Loopback::Allowed, listen, defaults)
}

/// Compiles what a hub and its members hold now, and what became of every object. Objects of `over`, a directory of manifests,
/// are laid over theirs. Nothing is written anywhere.
///
/// # Errors
/// When they have not told everything within [`FLEET_PATIENCE`]: who has not, and why.
pub fn compile_fleet(
    settings: FleetSettings,
    over: Option<&Path>,
    listen: &[impl Into<Listen> + Copy],
    defaults: &Defaults,
) -> Result<(RouteTable, CheckReport), String> {
    let view = SharedView::new();
    let watch = FleetWatch::start(settings, Before::default(), view.clone())?;
    let mut world = World::default();
    let deadline = Instant::now() + FLEET_PATIENCE;
    while !world.is_synced() {
        let batch = watch.receiver().recv_deadline(deadline).map_err(|_| {
            let sources = view.read().sources;
            let silent = sources.iter().filter(|(_, source)| !source.reason.is_empty());
            let silent: Vec<_> =
                silent.map(|(cluster, source)| format!("{cluster}: {}", source.reason)).collect();
            format!("the fleet has not told everything within {FLEET_PATIENCE:?}: {}", silent.join("; "))
        })?;
        batch.seen.into_iter().for_each(|observation| world.observe(observation));
    }
    for observation in over.map(|dir| Directory::new(dir).scan()).unwrap_or_default() {
        match observation {
            Observation::Upsert { .. } | Observation::Problems { .. } => world.observe(observation),
            // What the directory does not hold is not gone.
            Observation::Delete(_) | Observation::Member { .. } | Observation::Synced => {}
        }
    }
    Ok(compile(&mut world, Loopback::Refused, listen, defaults))
}

fn compile(
    world: &mut World,
    loopback: Loopback,
    listen: &[impl Into<Listen> + Copy],
    defaults: &Defaults,
) -> (RouteTable, CheckReport) {
    let settings = CompilerSettings {
        listen: listen.iter().map(|listen| (*listen).into()).collect(),
        series_max: SERIES_MAX,
        loopback,
        defaults: defaults.clone(),
    };
    let mut compiler = Compiler::new(settings);
    let _ = compiler.compile(world);
    let report = CheckReport {
        verdicts: compiler.verdicts(world),
        endpoints: compiler.endpoint_counts(),
        in_force: InForce::of(compiler.table()),
    };
    (compiler.table().clone(), report)
}
