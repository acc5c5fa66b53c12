//! The answer of `weir explain` as a sentence.

use crate::core::{ExplainRequest, Explanation};

/// One sentence: where the flow goes, by which rule, and how.
pub(super) fn sentence(question: &ExplainRequest, answer: &Explanation) -> String {
    let ExplainRequest { protocol, source, destination, opening } = question;
    let opening = if *opening { " (opening)" } else { "" };
    let goal = match &answer.backend {
        Some(backend) => format!("goes to {backend}"),
        None => "reaches no backend".to_owned(),
    };
    let service = answer.service.as_ref().map(|service| format!("service {service}"));
    let slot = answer.slot.map(|slot| format!("slot {slot}"));
    // The reason often is the slot's state: once is enough.
    let state =
        answer.slot_state.clone().filter(|state| !answer.reason.starts_with(state.as_str()));
    let why: Vec<String> =
        [service, slot, state, Some(answer.reason.clone())].into_iter().flatten().collect();
    let verdict = match answer.verdict.as_str() {
        "tx" => "sent back through its interface (tx)".to_owned(),
        "redirect" => "sent through another interface (redirect)".to_owned(),
        "pass" => "passed to the kernel (pass)".to_owned(),
        "drop" => "dropped (drop)".to_owned(),
        other => other.to_owned(),
    };
    format!("{protocol} {source} → {destination}{opening} {goal} ({}), {verdict}\n", why.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Name, Protocol};

    #[test]
    fn a_sentence_says_where_and_why() {
        let question = ExplainRequest {
            protocol: Protocol::Tcp,
            source: "1.2.3.4:555".parse().expect("an address"),
            destination: "192.0.2.10:80".parse().expect("an address"),
            opening: false,
        };
        let settled = Explanation {
            service: Name::new("grafana").ok(),
            backend: Name::new("g1").ok(),
            slot: Some(123),
            slot_state: Some("settled".to_owned()),
            reason: "settled".to_owned(),
            verdict: "tx".to_owned(),
        };
        assert_eq!(
            sentence(&question, &settled),
            "tcp 1.2.3.4:555 → 192.0.2.10:80 goes to g1 (service grafana, slot 123, settled), \
             sent back through its interface (tx)\n"
        );
        let opening = ExplainRequest { opening: true, ..question };
        assert!(sentence(&opening, &settled).contains("192.0.2.10:80 (opening) goes to g1"));
        let nowhere = Explanation {
            service: None,
            backend: None,
            slot: None,
            slot_state: None,
            reason: "no service".to_owned(),
            verdict: "pass".to_owned(),
        };
        assert_eq!(
            sentence(&question, &nowhere),
            "tcp 1.2.3.4:555 → 192.0.2.10:80 reaches no backend (no service), \
             passed to the kernel (pass)\n"
        );
    }
}
