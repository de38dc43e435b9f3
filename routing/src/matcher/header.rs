//! Header conditions (`HTTPHeaderMatch`).

use wire::head::RequestView;

use super::{Holds, OwnRegexes, value_holds};
use crate::model::ValueMatch;

/// The index of the first condition that does not hold.
///
/// Names are compared without case. Of a repeated field the first line counts; of conditions with the same name
/// each must hold (the controller drops the later ones, Gateway API `HTTPRouteMatch.headers`).
pub(crate) fn first_mismatch(
    conditions: &[ValueMatch],
    own: &mut OwnRegexes<'_>,
    view: &RequestView<'_>,
) -> Option<usize> {
    conditions.iter().position(|condition| {
        value_holds(&condition.value, own, view.header(condition.name.as_bytes())) == Holds::No
    })
}
