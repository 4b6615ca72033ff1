//! The page of the routes, as a browser shows it.

use serde_json::{Value, json};

use crate::support::clients::node;
use crate::support::{Worker, text};

/// A DOM for Node.js.
const DOM: &str = "linkedom@0.18.12";

/// Runs the page's script on the page with a document; gives the HTML, each route opened.
const SHOW: &str = r#"
import { parseHTML } from "linkedom";
import fs from "node:fs";
const plan = JSON.parse(fs.readFileSync(0, "utf8"));
const { document, Event } = parseHTML(plan.page);
const fetch = async () => ({ ok: true, json: async () => plan.document });
const script = document.querySelector("script").textContent;
new Function("document", "fetch", script)(document, fetch);
await new Promise((done) => setTimeout(done, 50));
for (const route of document.querySelectorAll("details")) route.dispatchEvent(new Event("toggle"));
document.querySelector("script").remove();
const code = [...document.querySelectorAll("code")].map((one) => one.textContent);
const links = [...document.querySelectorAll("main a")].map((one) => one.getAttribute("href"));
const items = [...document.querySelectorAll("li")].map((one) => one.textContent);
const strange = document.querySelectorAll("main script, main img, main b.x").length;
for (const one of document.querySelectorAll("code")) one.remove();
console.log(JSON.stringify({ code, links, items, strange, rest: document.body.textContent }));
"#;

#[tokio::test]
async fn descriptions_are_shown_as_what_their_marks_mean() {
    let worker = Worker::attached("http://127.0.0.1:9", &[]).await;
    let page = worker.get("/docs").await.text().await.expect("a page");
    let mut document = worker.ask("/openapi.json").await.body;
    let seen = node(DOM, SHOW, &json!({"page": page, "document": document})).await;
    let rest = text(&seen, "rest");
    assert!(rest.contains("Run one job and answer with its result"), "{rest}");
    assert!(!rest.contains('`'), "{rest}");
    let code = seen["code"].as_array().expect("a list");
    assert!(code.contains(&json!("?wait=")), "{code:?}");

    document["info"]["description"] = json!("**bold** `a <b> *c*` <script>alert(1)</script>");
    document["paths"]["/run"]["post"]["description"] = json!(
        "See [the page](https://example.com/a), [here](/docs) or [there](javascript:alert(1)):\n- one `x`\n- *two*\n\n2 * 3 * 4 <img src=x onerror=alert(1)><b class=x>"
    );
    let seen = node(DOM, SHOW, &json!({"page": page, "document": document})).await;
    let rest = text(&seen, "rest");
    for shown in [
        "bold  <script>alert(1)</script>",
        "[there](javascript:alert(1))",
        "2 * 3 * 4 <img src=x",
    ] {
        assert!(rest.contains(shown), "{shown}: {rest}");
    }
    assert!(
        seen["code"]
            .as_array()
            .is_some_and(|code| code.contains(&json!("a <b> *c*")))
    );
    assert_eq!(seen["links"], json!(["https://example.com/a", "/docs"]));
    assert_eq!(seen["items"], json!(["one x", "two"]));
    assert_eq!(seen["strange"], Value::from(0));
}
