//! The demo page as a file: small, self-contained, and covered by its Content-Security-Policy.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("../src/gateway/demo.html");
const POLICY: &str = include_str!("../src/gateway/demo.csp");

/// The text of the only `<name …>` element: what a browser hashes.
fn content(name: &str) -> &'static str {
    let opening = format!("<{name}");
    assert_eq!(PAGE.matches(&opening).count(), 1, "exactly one <{name}>");
    let (_, rest) = PAGE.split_once(&opening).unwrap();
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split_once(&format!("</{name}>")).unwrap().0
}

#[test]
fn policy_has_the_hashes_of_the_page() {
    for name in ["script", "style"] {
        let hash = STANDARD.encode(Sha256::digest(content(name)));
        let source = format!("{name}-src 'sha256-{hash}';");
        assert!(
            POLICY.contains(&source),
            "the page changed: src/gateway/demo.csp needs\n{source}"
        );
    }
    assert!(
        !POLICY.contains("unsafe"),
        "hashes make exceptions needless"
    );
    assert!(POLICY.starts_with("default-src 'none'; "));
}

#[test]
fn policy_is_a_header_value() {
    let value = POLICY.trim_end();
    assert_eq!(POLICY.trim_end_matches('\n'), value);
    assert!(value.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}

/// A browser hashes what it parsed, and its parser turns CR LF into LF.
#[test]
fn page_has_the_bytes_that_a_browser_hashes() {
    assert!(!PAGE.contains('\r') && !PAGE.contains('\0'));
}

#[test]
fn page_is_small_and_needs_nothing_else() {
    assert!(PAGE.len() < 31 * 1000, "{} bytes", PAGE.len());
    for reference in [
        " src=", "@import", "url(", "import(", "import ", "<base", "<iframe", "fetch(",
    ] {
        assert!(
            !PAGE.contains(reference),
            "the page refers to something outside: {reference}"
        );
    }
    // Namespaces are names, not addresses.
    let mut links = PAGE.replace("http://www.w3.org/2000/svg", "");
    links = links.to_lowercase();
    assert!(!links.contains("http://") && !links.contains("https://"));
}

/// What comes from the network is only ever text.
#[test]
fn page_builds_no_markup_from_strings() {
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "srcdoc",
    ] {
        assert!(!PAGE.contains(sink), "{sink}");
    }
    for attribute in [" onclick=", " onerror=", " onload=", " style="] {
        assert!(
            !PAGE.contains(attribute),
            "{attribute} is against the page's own policy"
        );
    }
}
