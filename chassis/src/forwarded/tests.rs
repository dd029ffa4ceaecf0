//! Which headers of which peers are believed, and what is sent on.

use super::*;

fn hop(peer: &str, trusted: &str) -> ForwardedContext {
    let peer = Peer { address: peer.parse().unwrap(), tls: false };
    ForwardedContext::new(&peer, &trusted.parse().unwrap())
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

#[test]
fn only_a_trusted_proxy_is_believed() {
    type Lines = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Lines, &str, bool)] = &[
        // Headers of an untrusted peer are ignored.
        ("1.2.3.4:5", &[("x-forwarded-for", "9.9.9.9")], "1.2.3.4", false),
        ("1.2.3.4:5", &[("forwarded", "for=9.9.9.9;proto=https")], "1.2.3.4", false),
        ("10.0.0.1:5", &[], "10.0.0.1", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
        ("[::ffff:10.0.0.1]:5", &[("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
        // The client's forged value is left of the address that the proxy appended.
        ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, 9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-for", "9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, 10.0.0.7")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "10.0.0.8, 10.0.0.7")], "10.0.0.8", false),
        // A client whose address is missing or invalid does not count as the proxy.
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, unknown")], "100::", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9, \u{e9}")], "100::", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "\u{e9}, 10.0.0.7")], "100::", false),
        ("10.0.0.1:5", &[("forwarded", "for=_hidden;proto=https")], "100::", true),
        ("10.0.0.1:5", &[("forwarded", "proto=https")], "100::", true),
        // Invalid input of the client does not hide what the proxy appended.
        ("10.0.0.1:5", &[("x-forwarded-for", "\u{e9}, 9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "\", 9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9,, ,")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("forwarded", "for=\u{e9}, for=9.9.9.9;proto=https")], "9.9.9.9", true),
        ("10.0.0.1:5", &[("forwarded", "for=\", for=9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-real-ip", "10.0.0.9, 9.9.9.9")], "9.9.9.9", false),
        // A proxy may quote a value that the client chose.
        ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a, for=6.6.6.6\"")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a;for=6.6.6.6;proto=https\"")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;host=\"a\\\", for=6.6.6.6\"")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("forwarded", "for=6.6.6.6, x=\", for=9.9.9.9;host=\"b\"")], "9.9.9.9", false),
        // Parameters that the client wrote are not trusted.
        ("10.0.0.1:5", &[("forwarded", "for=6.6.6.6;proto=https, for=9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("forwarded", "for=9.9.9.9;proto=https, for=10.0.0.7")], "9.9.9.9", true),
        // IPv6 addresses that embed an IPv4 address do not equal it, except for mapped ones.
        ("[::10.0.0.1]:5", &[("x-forwarded-for", "9.9.9.9")], "::10.0.0.1", false),
        ("[2002:a00:1::66]:5", &[("x-forwarded-for", "9.9.9.9")], "2002:a00:1::66", false),
        ("[64:ff9b::a00:1]:5", &[("x-forwarded-for", "9.9.9.9")], "64:ff9b::a00:1", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, 64:ff9b::a00:7")], "64:ff9b::a00:7", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "6.6.6.6, ::ffff:10.0.0.7")], "6.6.6.6", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9:4711")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-for", "[2001:db8::1]:4711")], "2001:db8::1", false),
        ("10.0.0.1:5", &[("forwarded", "for=\"[2001:db8::1]:99\";proto=https")], "2001:db8::1", true),
        ("10.0.0.1:5", &[("x-forwarded-for", "9.9.9.9"), ("forwarded", "for=6.6.6.6")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-real-ip", "9.9.9.9")], "9.9.9.9", false),
        ("10.0.0.1:5", &[("x-forwarded-proto", "http, https")], "10.0.0.1", true),
    ];
    for (peer, lines, ip, https) in cases {
        let client = hop(peer, "10.0.0.0/8").client(&headers(lines), None);
        assert_eq!(client.ip, ip.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        assert_eq!(client.https, *https, "{peer} {lines:?}");
    }
}

#[test]
fn a_client_that_is_not_known_is_in_no_list() {
    let all: NetworkList = "::/0,0.0.0.0/0".parse().unwrap();
    assert!(all.contains("2001:db8::1".parse().unwrap()) && !all.contains(UNKNOWN_CLIENT));
}

#[test]
fn of_a_long_chain_the_end_is_read() {
    let mut long = HeaderMap::new();
    let chain = "6.6.6.6, ".repeat(31_000) + "9.9.9.9, 10.0.0.7";
    long.append(X_FORWARDED_FOR, HeaderValue::from_str(&chain).unwrap());
    let hop = hop("10.0.0.1:5", "10.0.0.0/8");
    assert_eq!(hop.client(&long, None).ip, "9.9.9.9".parse::<IpAddr>().unwrap());
    hop.set_headers(&mut long, None);
    let told = long[X_FORWARDED_FOR].to_str().unwrap();
    assert!(told.starts_with("6.6.6.6, ") && told.ends_with(", 9.9.9.9, 10.0.0.7, 10.0.0.1"), "{told}");
    assert_eq!(told.split(',').count(), MAX_CHAIN + 1);
}

#[test]
fn w187_only_the_end_of_a_long_forwarded_header_is_parsed() {
    let hop = hop("10.0.0.1:5", "10.0.0.0/8");
    let long = "a=b;".repeat(12_000);
    for (name, value, ip) in [
        ("forwarded", format!("{long}, for=9.9.9.9"), "9.9.9.9"),
        ("forwarded", format!("{long}for=9.9.9.9, for=10.0.0.7"), "100::"),
        // The proxy quoted a long value of the client.
        ("forwarded", format!("for=9.9.9.9;host=\"{long}\""), "100::"),
        ("forwarded", format!("for=6.6.6.6;x={long}for=9.9.9.9"), "100::"),
        ("x-forwarded-for", format!("6.6.6.6{}9.9.9.9", " ".repeat(5000)), "100::"),
        ("x-forwarded-for", format!("6.6.6.6,{}9.9.9.9", " ".repeat(5000)), "100::"),
        ("x-forwarded-for", format!("{}, 9.9.9.9", "6".repeat(5000)), "9.9.9.9"),
    ] {
        let mut given = HeaderMap::new();
        given.append(name, HeaderValue::from_str(&value).unwrap());
        assert_eq!(hop.client(&given, None).ip, ip.parse::<IpAddr>().unwrap(), "{name}: {}", &value[..20]);
        given.append(name, HeaderValue::from_static("for=9.9.9.9"));
        hop.set_headers(&mut given, None);
        assert!(given[header::FORWARDED].len() < 2 * MAX_CHAIN_BYTES);
    }
}

#[test]
fn what_a_client_may_not_say_is_removed() {
    let all = [
        ("forwarded", "for=1.1.1.1"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-anything", "x"),
        ("x-real-ip", "1.1.1.1"),
        ("x-openorch-user", "admin"),
        ("x_forwarded_for", "1.1.1.1"),
        ("x-real_ip", "1.1.1.1"),
        ("x_openorch_user", "admin"),
        ("x-openorch-a_b", "x"),
        ("x-other", "stays"),
        ("x_other", "stays"),
        ("openorch-extended", "1"),
    ];
    let left = |peer: &str| {
        let mut headers = headers(&all);
        hop(peer, "10.0.0.0/8").strip_untrusted(&mut headers);
        let mut names: Vec<String> = headers.keys().map(|n| n.to_string()).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(left("1.2.3.4:5"), "openorch-extended x-other x_other");
    assert_eq!(
        left("10.0.0.1:5"),
        "forwarded openorch-extended x-forwarded-anything x-forwarded-for x-other x-real-ip x_other"
    );
}

#[test]
fn the_next_server_is_told_who_asked() {
    let host = HeaderValue::from_static("shop.example:8080");
    let mut sent = HeaderMap::new();
    hop("[2001:db8::7]:5", "").set_headers(&mut sent, Some(&host));
    assert_eq!(sent[X_FORWARDED_FOR], "2001:db8::7");
    assert_eq!(sent[X_FORWARDED_PROTO], "http");
    assert_eq!(sent[X_FORWARDED_HOST], "shop.example:8080");
    assert_eq!(sent[header::FORWARDED], "for=\"[2001:db8::7]\";host=\"shop.example:8080\";proto=http");

    let mut sent = headers(&[
        ("x-forwarded-for", "9.9.9.9"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
    ]);
    hop("10.0.0.1:5", "10.0.0.1").set_headers(&mut sent, Some(&HeaderValue::from_static("inner")));
    assert_eq!(sent[X_FORWARDED_FOR], "9.9.9.9, 10.0.0.1");
    assert_eq!(sent[X_FORWARDED_PROTO], "https");
    assert_eq!(sent[X_FORWARDED_HOST], "shop.example");
    assert_eq!(sent[header::FORWARDED], "for=9.9.9.9;host=\"shop.example\";proto=https, for=10.0.0.1");
}

#[test]
fn a_request_id_is_kept_only_if_it_is_harmless() {
    for (given, kept) in [
        (&["abc-123"][..], true),
        (&["a b"], false),
        (&["a\u{9}b"], false),
        (&[""], false),
        (&["a", "b"], false),
        (&["0123456789012345678901234567890123456789012345678901234567890123"], true),
        (&["01234567890123456789012345678901234567890123456789012345678901234"], false),
    ] {
        let mut headers = HeaderMap::new();
        for id in given {
            headers.append(X_REQUEST_ID, HeaderValue::from_static(id));
        }
        let id = RequestId::of(&headers);
        assert_eq!(id.0 == given[0], kept, "{given:?}");
        assert!(is_request_id(id.0.as_bytes()));
    }
    assert_ne!(RequestId::fresh(), RequestId::fresh());
}
