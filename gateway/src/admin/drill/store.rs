//! Reports on disk: `STATE_DIR/drills/BEGAN_UNIX_MS-CLUSTER.json`, the newest so many.

use std::io;
use std::path::{Path, PathBuf};

use super::Report;
use crate::observe::newest;

/// Where reports are kept.
#[derive(Clone, Debug)]
pub(in crate::admin) struct Reports {
    dir: Option<PathBuf>,
    kept: usize,
}

impl Reports {
    /// In `state_dir`; empty = nowhere.
    pub(in crate::admin) fn new(state_dir: &Path, kept: u32) -> Self {
        let dir = (!state_dir.as_os_str().is_empty()).then(|| state_dir.join("drills"));
        Self { dir, kept: kept as usize }
    }

    /// Keeps a report; the oldest ones beyond the bound go. Where it is, if anywhere.
    pub(in crate::admin) fn keep(&self, report: &Report) -> io::Result<Option<PathBuf>> {
        let Some(dir) = &self.dir else { return Ok(None) };
        // A cluster id is a DNS label: it cannot lead out of the directory.
        let name = format!("{:013}-{}.json", report.began_unix_ms, report.cluster);
        newest::keep(dir, &name, &serde_json::to_vec_pretty(report)?, self.kept).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::{Figures, Outcome};
    use super::*;

    fn report(began_unix_ms: u64) -> Report {
        Report {
            cluster: "alpha".to_owned(),
            fault: "refuse".to_owned(),
            share_percent: 10.0,
            abort_on: "failed=1".to_owned(),
            began_unix_ms,
            planned_seconds: 30.0,
            outcome: Outcome::Finished,
            reason: String::new(),
            faults: 1,
            detection_ms: None,
            moved: 1,
            retried: 0,
            hedged: 0,
            before: Figures::default(),
            during: Figures::default(),
            after: Figures::default(),
        }
    }

    #[test]
    fn the_newest_reports_are_kept_and_others_files_are_left_alone() {
        let state = std::env::temp_dir().join(format!("ringway-drills-{}", std::process::id()));
        let _ = fs::remove_dir_all(&state);
        let reports = Reports::new(&state, 2);
        fs::create_dir_all(state.join("drills")).unwrap();
        fs::write(state.join("drills/README"), "mine").unwrap();
        for began in [999, 20, 1_000_000_000_000] {
            assert!(reports.keep(&report(began)).unwrap().is_some());
        }
        let mut names: Vec<_> =
            fs::read_dir(state.join("drills")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0000000000999-alpha.json", "1000000000000-alpha.json", "README"]);
        let text = fs::read(state.join("drills/0000000000999-alpha.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Report>(&text).unwrap(), report(999));
        fs::remove_dir_all(&state).unwrap();
        assert_eq!(Reports::new(Path::new(""), 2).keep(&report(1)).unwrap(), None);
    }
}
