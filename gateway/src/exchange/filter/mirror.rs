//! Copies of requests, sent elsewhere: their answers are read as far as their heads, and thrown away.

use rand::Rng;
use routing::failover::Tried;
use routing::model::Mirror;
use routing::table::Pick;

use crate::exchange::account::{Asked, Held};
use crate::exchange::attempt::Flow;
use crate::exchange::{rescue, subject};

/// Sends a copy, for its share of requests. A request whose body has not come whole is not copied: a mirror must not
/// hold a body up, or hold it in memory. Bounded like attempts that were given up (`limits.detached_max`).
pub(in crate::exchange) fn mirror(flow: &mut Flow<'_>, mirror: &Mirror) {
    let head = flow.view.head;
    let is_whole = !flow.work.upload.wants_more() && head.upgrade.is_none();
    if !is_whole || flow.worker.rng.borrow_mut().random_range(0..1_000_000) >= mirror.share_ppm {
        return;
    }
    let now = flow.work.seen;
    let picked = {
        let (table, mut rng) = (flow.worker.table.borrow(), flow.worker.rng.borrow_mut());
        let subject = subject(flow.client, flow.view, flow.work);
        table.pick_among(&mirror.backends, flow.rule, &subject, &Tried::new(), now, &mut rng)
    };
    let Ok(pick) = picked else { return };
    let pick = Pick { backend_ref: u16::MAX, ..pick };
    let outlier = flow.rule.policy().outlier;
    let held = Held::new(flow.worker, pick, now, Asked::InFull, outlier, &flow.client.deadline);
    flow.worker.heed();
    rescue::send_copy(flow, held);
}
