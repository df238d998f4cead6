//! The loopback redirect (RFC 8252 section 7.3): a listener that takes one authorization response.
//!
//! A response with a wrong state gets 400 and the login goes on waiting; other paths get 404.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};

use super::DemoError;
use crate::http::{self, query_value};

/// The listener.
#[derive(Debug)]
pub struct Callback {
    listener: TcpListener,
    port: u16,
}

impl Callback {
    /// Listens on `port`; on one that the kernel picks if that is 0.
    pub fn listen(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// The redirect URI.
    pub fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}/callback", self.port)
    }

    /// Waits for the response with this `state`; returns its code.
    pub fn wait(&self, state: &str) -> Result<String, DemoError> {
        let (answered, answers) = channel();
        let (listener, state) =
            (self.listener.try_clone().map_err(super::io("listen for the callback"))?, state.to_owned());
        crate::spawn("callback", move || {
            http::serve(&listener, "callback", move |mut stream| drop(take(&mut stream, &state, &answered)));
        })
        .map_err(super::io("listen for the callback"))?;
        let refused = || DemoError::Refused { error: "the callback listener ended".to_owned() };
        answers.recv().map_err(|_| refused())?.map_err(|error| DemoError::Refused { error })
    }
}

fn take(stream: &mut TcpStream, state: &str, answered: &Sender<Result<String, String>>) -> io::Result<()> {
    let Some(request) = http::read_request(stream)? else { return Ok(()) };
    let html = "text/html; charset=utf-8";
    if (request.method.as_str(), request.path.as_str()) != ("GET", "/callback") {
        return http::respond(stream, "404 Not Found", "text/plain", b"");
    }
    if query_value(&request.query, "state").as_deref() != Some(state) {
        return http::respond(stream, "400 Bad Request", html, page("This answer is not for this sign-in.").as_bytes());
    }
    // The page first: the tool may end as soon as it has the answer.
    let (text, answer) = match (query_value(&request.query, "code"), query_value(&request.query, "error")) {
        (_, Some(error)) => ("The sign-in was refused. You can close this page.", Err(error)),
        (Some(code), None) => ("Signed in. You can close this page.", Ok(code)),
        (None, None) => {
            return http::respond(stream, "400 Bad Request", html, page("This answer holds no code.").as_bytes());
        }
    };
    let written = http::respond(stream, "200 OK", html, page(text).as_bytes());
    let _ = answered.send(answer);
    written
}

fn page(text: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Airlock demo</title>\
         <body style=\"font:20px sans-serif;text-align:center;margin-top:20vh\"><h1>{text}</h1></body></html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn get(port: u16, target: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn only_the_answer_with_our_state_ends_the_wait() {
        let callback = Callback::listen(0).unwrap();
        let port = callback.port;
        let waiting = std::thread::spawn(move || callback.wait("right"));
        assert!(get(port, "/favicon.ico").starts_with("HTTP/1.1 404"));
        assert!(get(port, "/callback?code=x&state=wrong").starts_with("HTTP/1.1 400"));
        assert!(get(port, "/callback?state=right").starts_with("HTTP/1.1 400"));
        assert!(get(port, "/callback?code=a%2Fb&state=right").contains("Signed in"));
        assert_eq!(waiting.join().unwrap().unwrap(), "a/b");
    }

    #[test]
    fn a_refusal_ends_it_too() {
        let callback = Callback::listen(0).unwrap();
        let port = callback.port;
        let waiting = std::thread::spawn(move || callback.wait("s"));
        assert!(get(port, "/callback?error=access_denied&state=s").contains("refused"));
        assert_eq!(waiting.join().unwrap().unwrap_err().to_string(), "Sign-in refused: access_denied");
    }
}
