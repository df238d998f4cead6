//! What a person at a terminal must know of a login that runs: the code to type, the code to bring, how a try ended.
//!
//! Codes and pages stand here for the person who signs in; they are in no log.

use airlock_api::session::SessionView;

/// The news of a session's login, and what to do about them; none if there is nothing to do but to sign in.
pub fn news(session: &SessionView) -> Option<String> {
    let (id, login) = (&session.session_id, session.login.as_ref()?);
    if let Some(outcome) = &login.outcome {
        let attempt = login.attempt;
        return Some(format!(
            "try {attempt} ended: {outcome}; another one in the same machine: airlock session retry {id}"
        ));
    }
    if let (Some(code), Some(page)) = (&login.user_code, &login.verification_url) {
        return Some(format!("type the code {} at {}, on any device", code.expose(), page.expose()));
    }
    let wanted = format!(
        "the tool asks for the code that its page shows: airlock session url {id}, then airlock session code {id}"
    );
    login.code_wanted.then_some(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn of(login: Value) -> Option<String> {
        let session = json!({"sessionId": "s1", "userId": "u", "provider": "p", "state": "awaiting_user", "vmId": "v",
            "createdAt": "", "deadline": "", "login": login});
        news(&serde_json::from_value(session).unwrap())
    }

    #[test]
    fn a_person_is_told_what_to_do() {
        let login = |more: Value| {
            let mut login = json!({"flow": "device_code", "codeWanted": false, "attempt": 2});
            login.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            of(login)
        };
        assert_eq!(of(Value::Null), None);
        assert_eq!(login(json!({})), None);
        let device = login(json!({"userCode": "AB-CD", "verificationUrl": "https://i/device"})).unwrap();
        assert!(device.contains("AB-CD at https://i/device"), "{device}");
        let wanted = login(json!({"codeWanted": true})).unwrap();
        assert!(wanted.contains("airlock session code s1"), "{wanted}");
        let ended = login(json!({"outcome": "denied"})).unwrap();
        assert!(ended.contains("try 2 ended: denied") && ended.contains("airlock session retry s1"), "{ended}");
    }
}
