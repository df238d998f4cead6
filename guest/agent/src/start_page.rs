//! The page that the browser waits on, on guest loopback only: one solid colour, a sentence, and an event stream over which
//! the agent sends it to the provider's page.
//!
//! Only our own origin may read the stream (no CORS headers, `Host` checked), since it carries login URLs. A URL that comes
//! before the page is connected waits for it; who waits too long is told so and opens the page in another way.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use airlock_protocol::Sensitive;

use crate::http;
use crate::painted::BACKGROUND;
use crate::{lock, spawn};

/// The connected pages, and what they are told.
#[derive(Debug, Default)]
pub struct StartPage {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pages: Vec<(u64, TcpStream)>,
    next_id: u64,
    waiting_for: Option<String>,
    /// Where the person belongs now: a browser that was closed and started again goes there too.
    goes_to: Option<Sensitive>,
}

impl StartPage {
    /// Opens the port on loopback.
    pub fn listen(port: u16) -> io::Result<TcpListener> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
    }

    /// Answers for ever.
    pub fn serve(self: &Arc<Self>, listener: &TcpListener) {
        let this = self.clone();
        http::serve(listener, "start-page", move |stream| {
            let _ = this.answer(stream);
        });
    }

    /// Names the tool on the page, for a login that begins.
    pub fn wait_for_tool(&self, name: &str) {
        let mut state = lock(&self.state);
        state.goes_to = None;
        state.waiting_for = Some(name.to_owned());
        let event = event("tool", name);
        state.pages.retain_mut(|(_, page)| page.write_all(event.as_bytes()).is_ok());
    }

    /// Sends the connected page to `url`; waits up to `patience` for a page to connect. `false`: there is none, and only one that
    /// connects later will go there.
    pub fn send_to(&self, url: &Sensitive, patience: Duration) -> bool {
        let state = lock(&self.state);
        let waited = self.changed.wait_timeout_while(state, patience, |state| state.pages.is_empty());
        let (mut state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        // Also when nobody is told now: the browser may be shown the page by command, and be closed after that.
        state.goes_to = Some(url.clone());
        let event = Sensitive::new(event("page", url.expose()));
        // The newest page is the one the person sees. It leaves the list: it is on its way to another page now.
        while let Some((_, mut page)) = state.pages.pop() {
            if page.write_all(event.expose().as_bytes()).is_ok() {
                return true;
            }
        }
        false
    }

    /// Whether a page was ever connected: a browser that has shown it once is not starting any more.
    pub fn was_seen(&self) -> bool {
        lock(&self.state).next_id > 0
    }

    fn answer(&self, mut stream: TcpStream) -> io::Result<()> {
        let Some(request) = http::read_request(&mut stream)? else { return Ok(()) };
        let is_ours = request.host.as_deref().is_some_and(|host| {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            name == "127.0.0.1" || name == "localhost"
        });
        match (request.method.as_str(), request.path.as_str()) {
            _ if !is_ours => http::respond(&mut stream, "421 Misdirected Request", "text/plain", b""),
            ("GET", "/") => {
                let page = page(lock(&self.state).waiting_for.as_deref());
                http::respond(&mut stream, "200 OK", "text/html; charset=utf-8", page.as_bytes())
            }
            ("GET", "/events") => self.hold(stream),
            _ => http::respond(&mut stream, "404 Not Found", "text/plain", b""),
        }
    }

    /// Keeps an event stream until its page goes away.
    fn hold(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n: hello\n\n",
        )?;
        let id = {
            let mut state = lock(&self.state);
            if let Some(url) = &state.goes_to {
                return stream.write_all(Sensitive::new(event("page", url.expose())).expose().as_bytes());
            }
            let id = state.next_id;
            state.next_id += 1;
            state.pages.push((id, stream.try_clone()?));
            id
        };
        self.changed.notify_all();
        stream.set_read_timeout(None)?;
        let mut nothing = [0; 64];
        while matches!(stream.read(&mut nothing), Ok(len) if len > 0) {}
        lock(&self.state).pages.retain(|(page, _)| *page != id);
        Ok(())
    }
}

/// Starts the page's server on its own thread.
pub fn start(port: u16) -> io::Result<Arc<StartPage>> {
    let listener = StartPage::listen(port)?;
    let page = Arc::new(StartPage::default());
    let serving = page.clone();
    spawn("start-page", move || serving.serve(&listener))?;
    Ok(page)
}

/// One server-sent event; JSON keeps line ends out of `data`.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

fn page(tool: Option<&str>) -> String {
    let [r, g, b] = BACKGROUND;
    let tool = tool.map(escape).unwrap_or_else(|| "the sign-in".to_owned());
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>Airlock</title>
<link rel="icon" href="data:,">
<style>
html,body{{margin:0;height:100%;background:rgb({r},{g},{b});color:#fff;font:18px/1.5 sans-serif}}
body{{display:flex;flex-direction:column;align-items:center;justify-content:center;text-align:center}}
h1{{font-size:28px;font-weight:600;margin:0 0 8px}}p{{margin:0;color:#d5e6ee}}
</style></head>
<body><h1>Waiting for <span id="tool">{tool}</span> …</h1><p>The sign-in page opens here by itself. Nothing to do yet.</p>
<script>
// Behind the load: a stream that is part of it keeps the browser saying that it transfers data.
addEventListener("load", () => setTimeout(() => {{
  const events = new EventSource("/events");
  events.addEventListener("tool", e => {{ document.getElementById("tool").textContent = JSON.parse(e.data); }});
  events.addEventListener("page", e => {{ const url = JSON.parse(e.data); events.close(); location.replace(url); }});
}}));
</script></body></html>
"#
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(port: u16, path: &str, host: &str) -> TcpStream {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        stream
    }

    fn read_until(stream: &mut TcpStream, text: &str) -> String {
        let (mut seen, mut chunk) = (String::new(), [0; 256]);
        while !seen.contains(text) {
            let len = stream.read(&mut chunk).unwrap();
            assert!(len > 0, "closed after {seen:?}");
            seen.push_str(std::str::from_utf8(&chunk[..len]).unwrap());
        }
        seen
    }

    fn serve() -> (Arc<StartPage>, u16) {
        let listener = StartPage::listen(0).unwrap();
        let port = listener.local_addr().unwrap().port();
        let page = Arc::new(StartPage::default());
        let serving = page.clone();
        spawn("test", move || serving.serve(&listener)).unwrap();
        (page, port)
    }

    #[test]
    fn a_page_that_connects_late_still_gets_the_url() {
        let (page, port) = serve();
        let sending = std::thread::spawn(move || {
            page.send_to(&Sensitive::new("https://idp/?state=\"1\""), Duration::from_secs(20))
        });
        let mut stream = connect(port, "/events", "127.0.0.1:8081");
        let seen = read_until(&mut stream, "idp");
        assert!(sending.join().unwrap());
        assert!(seen.contains("event: page\ndata: \"https://idp/?state=\\\"1\\\"\""), "{seen}");
    }

    #[test]
    fn a_browser_that_comes_back_goes_where_the_last_one_went() {
        let (page, port) = serve();
        let mut first = connect(port, "/events", "127.0.0.1:8081");
        read_until(&mut first, "hello");
        assert!(page.send_to(&Sensitive::new("https://idp/"), Duration::from_secs(20)));
        drop(first);
        let mut second = connect(port, "/events", "127.0.0.1:8081");
        assert!(read_until(&mut second, "idp").contains("event: page"));
        // Another login begins anew.
        page.wait_for_tool("other");
        let mut third = connect(port, "/events", "127.0.0.1:8081");
        assert!(!read_until(&mut third, "hello").contains("event: page"));
    }

    #[test]
    fn without_a_page_nothing_is_delivered_until_one_connects() {
        let (page, port) = serve();
        // A page that left is not counted.
        let mut stream = connect(port, "/events", "localhost");
        read_until(&mut stream, "hello");
        assert!(page.send_to(&Sensitive::new("https://idp/"), Duration::from_secs(5)));
        assert!(!page.send_to(&Sensitive::new("https://other/"), Duration::ZERO));
        let mut later = connect(port, "/events", "localhost");
        assert!(read_until(&mut later, "https").contains("https://other/"));
    }

    #[test]
    fn the_page_names_the_tool_and_hides_from_other_hosts() {
        let (page, port) = serve();
        page.wait_for_tool("<claude>");
        let mut body = String::new();
        connect(port, "/", "127.0.0.1:8081").read_to_string(&mut body).unwrap();
        assert!(body.contains("&lt;claude&gt;") && body.contains("rgb(11,79,108)"), "{body}");
        let mut refused = String::new();
        connect(port, "/events", "evil.example").read_to_string(&mut refused).unwrap();
        assert!(refused.starts_with("HTTP/1.1 421"), "{refused}");
    }
}
