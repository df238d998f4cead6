//! The code that a person carries: the server shows it on a page, with the request's own mark behind a `#`, and the tool asks for it.

use std::io::{BufRead, Write};

use super::authorization::Request;
use super::{DemoError, WRONG_CODE, io, tokens};

/// The redirect URI that asks for a page with the code on it.
const SHOW_CODE: &str = "urn:ietf:wg:oauth:2.0:oob";
/// So many codes are asked for.
const TRIES: u32 = 3;

/// Signs in. Returns the account's name.
pub fn login() -> Result<String, DemoError> {
    let request = Request::new()?;
    request.show(SHOW_CODE);
    let mut answers = std::io::stdin().lock();
    for last in (1..=TRIES).map(|attempt| attempt == TRIES) {
        print!("Paste the code here: ");
        std::io::stdout().flush().map_err(io("ask for the code"))?;
        let mut line = String::new();
        if answers.read_line(&mut line).map_err(io("read the code"))? == 0 {
            break;
        }
        match redeem(&request, line.trim()) {
            Err(DemoError::Token { .. } | DemoError::Code) if !last => println!("{WRONG_CODE}."),
            Err(DemoError::Token { .. }) => break,
            account => return account,
        }
    }
    Err(DemoError::Code)
}

fn redeem(request: &Request, answer: &str) -> Result<String, DemoError> {
    let code = code_of(answer, &request.state).ok_or(DemoError::Code)?;
    let tokens = tokens::exchange(&request.issuer, code, SHOW_CODE, &request.verifier)?;
    tokens.save()?;
    Ok(tokens.account)
}

/// The code of an answer to this request; none of an answer to another one.
fn code_of<'a>(answer: &'a str, state: &str) -> Option<&'a str> {
    let (code, mark) = answer.split_once('#')?;
    (mark == state && !code.is_empty()).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_counts_with_the_mark_of_its_request() {
        assert_eq!(code_of("abc#s1", "s1"), Some("abc"));
        for other in ["abc", "abc#s2", "#s1", ""] {
            assert_eq!(code_of(other, "s1"), None, "{other}");
        }
    }
}
