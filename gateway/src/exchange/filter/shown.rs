//! The certificate that a client's handshake was made with: may it come by that, and what its backend is told.

use routing::model::{ClientCertificate, Demand};
use smallvec::SmallVec;

use super::Stop;
use crate::downstream::h1::Client;
use crate::exchange::Request;
use crate::exchange::reply::Reply;
use crate::observe::stats::Limit;
use crate::tls::client::{Shown, Worth};

/// Fields of a request, by name.
pub(in crate::exchange) type Told<'a> = SmallVec<[(&'a str, &'a [u8]); 4]>;

/// `None` = the request may go on.
pub(super) fn judge<'r>(request: &Request<'_>, wanted: &'r ClientCertificate) -> Option<Stop<'r>> {
    let Some(by) = &wanted.by else { return Some(Stop::Reply(Reply::new(503, "auth_tls_secret_missing"))) };
    let Some(facts) = request.client.conn.tls() else {
        request.worker.stats.hit(Limit::ClientCertificate);
        return Some(Stop::Reply(Reply::new(403, "client_certificate_needs_tls")));
    };
    // Shown to another name of this node: that one's authorities are not this rule's (RFC 9110 §15.5.20).
    let Some(shown) = facts.shown.as_ref().filter(|shown| shown.by == *by) else {
        return Some(Stop::Reply(Reply::new(421, "misdirected")));
    };
    let reason = match (shown.worth, wanted.demand) {
        (Worth::Verified, _) => match (&wanted.subject, &shown.certificate) {
            (Some(pattern), Some(certificate)) if !pattern.is_match(certificate.subject.as_bytes()) => {
                request.worker.stats.hit(Limit::ClientCertificate);
                return Some(Stop::Reply(Reply::new(403, "client_certificate_subject")));
            }
            (Some(_) | None, _) => return None,
        },
        (Worth::Absent, Demand::Optional | Demand::Reported) => return None,
        (Worth::Refused(_), Demand::Reported) => return None,
        (Worth::Absent, Demand::Required) => "client_certificate_missing",
        (Worth::Refused(_), Demand::Required | Demand::Optional) => "client_certificate_refused",
    };
    request.worker.stats.hit(Limit::ClientCertificate);
    Some(Stop::Reply(match &wanted.error_page {
        Some(page) => Reply { location: Some(page.as_bytes()), ..Reply::new(302, reason) },
        None => Reply::new(400, reason),
    }))
}

/// What a backend is told: as ingress-nginx names it. Those that the client has sent itself are never passed on.
pub(in crate::exchange) fn fields<'a>(
    wanted: &ClientCertificate,
    client: &'a Client,
    failed: &'a mut String,
) -> Told<'a> {
    let mut told = Told::new();
    let shown: Option<&Shown> = client.conn.tls().and_then(|facts| facts.shown.as_deref());
    let Some(shown) = shown else { return told };
    let worth: &'a [u8] = match shown.worth {
        Worth::Absent => b"NONE",
        Worth::Verified => b"SUCCESS",
        Worth::Refused(reason) => {
            failed.push_str("FAILED:");
            failed.push_str(reason);
            failed.as_bytes()
        }
    };
    told.push(("ssl-client-verify", worth));
    if let Some(certificate) = &shown.certificate {
        told.push(("ssl-client-subject-dn", certificate.subject.as_bytes()));
        told.push(("ssl-client-issuer-dn", certificate.issuer.as_bytes()));
        if wanted.passes {
            told.push(("ssl-client-cert", certificate.pem.as_bytes()));
        }
    }
    told
}
