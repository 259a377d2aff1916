//! Any text as a filter: an error that says something, or a filter whose canonical text means the same.
#![no_main]

use flowtap_core::criteria::{Criteria, CriteriaText, IpFamily};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let mut fields = input
        .split('\n')
        .map(|field| Some(field).filter(|field| !field.is_empty()));
    let mut next = || fields.next().flatten();
    let text = CriteriaText {
        source: next(),
        destination: next(),
        protocol: next(),
        source_port: next(),
        destination_port: next(),
        icmp_type: next(),
        icmp_code: next(),
        family: match next() {
            Some("4") => Some(IpFamily::V4),
            Some("6") => Some(IpFamily::V6),
            _ => None,
        },
    };
    match Criteria::parse(&text) {
        Ok(criteria) => {
            let form = criteria.normal_form().to_string();
            let field = |name: &str| {
                form.split(' ')
                    .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            };
            let again = Criteria::parse(&CriteriaText {
                source: field("source"),
                destination: field("destination"),
                protocol: field("protocol"),
                source_port: field("source_port"),
                destination_port: field("destination_port"),
                icmp_type: field("icmp_type"),
                icmp_code: field("icmp_code"),
                // The addresses say it.
                family: None,
            });
            assert_eq!(again, Ok(criteria));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
