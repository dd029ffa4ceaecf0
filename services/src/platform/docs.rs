//! The operations as one HTML page, generated from the table: no script, no token field, no external resources.

use std::fmt::Write;

use openorch_api::{Access, Exempt, Operation, SERVICES};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
code{background:#f3f3f3;padding:.1em .3em;border-radius:3px}section{margin:1.5rem 0;border-top:1px solid #ddd}\
.method{font-weight:700}.access{color:#666;font-size:.9em}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
code{background:#2a2a2a}section{border-color:#333}.access{color:#999}a{color:#8bf}}";

pub fn page(version: &str) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>OpenOrch {version}</title><style>{STYLE}</style></head><body><h1>OpenOrch {version}</h1>\
         <p>Requests to <code>/&lt;slug&gt;/…</code> reach the instances of the account with that slug. The operations below are \
         the daemon's own; <a href=\"/openapi.json\">openapi.json</a> has their types. Those that need a token take it as \
         <code>Authorization: Bearer …</code>; <code>POST /user-svc/login</code> gives one.</p><ul>"
    );
    for service in SERVICES {
        let _ = write!(html, "<li><a href=\"#{}\">{}</a></li>", service.slug, escape(service.name));
    }
    html.push_str("</ul>");
    for service in SERVICES {
        let _ = write!(html, "<h2 id=\"{}\">{}</h2>", service.slug, escape(service.name));
        service.operations.iter().for_each(|row| operation(&mut html, row));
    }
    html + "</body></html>"
}

fn operation(html: &mut String, row: &Operation) {
    let _ = write!(
        html,
        "<section id=\"{id}\"><h3><code><span class=\"method\">{}</span> {}</code></h3><p class=\"access\">{id} · {}</p>",
        row.method.as_str(),
        escape(row.path),
        access(row),
        id = row.id,
    );
    for paragraph in row.doc.split("\n\n").map(str::trim).filter(|text| !text.is_empty()) {
        let _ = write!(html, "<p>{}</p>", escape(paragraph));
    }
    html.push_str("</section>");
}

fn access(row: &Operation) -> String {
    let condition = row.condition.map(|condition| condition.allowed_callers);
    let admitted = match (row.access, condition) {
        (Access::Public, _) => "anyone".into(),
        (Access::SignedIn, Some(who)) => return escape(who),
        (Access::SignedIn, None) => "any account".into(),
        (Access::Needs(guard), _) => {
            let exempt = match guard.exempt {
                Exempt::None => "",
                Exempt::Owner => ", or the owner",
                Exempt::Account => ", or the account for itself",
            };
            format!("permission <code>{}</code>{exempt}", escape(guard.permission.id))
        }
    };
    condition.map_or(admitted.clone(), |who| format!("{admitted}; {}", escape(who)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
