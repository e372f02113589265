//! Carries out a recovery action: one HTTP request or one program, under a deadline. Whether and when, is the engine's
//! business.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;

use crate::domain::observation::clean;
use crate::domain::outage::Outage;
use crate::domain::recovery::Action;

/// Longest an action may take: our choice, a restart of a service takes less.
const DEADLINE: Duration = Duration::from_secs(60);
/// What is read of a failed program's words: our choice.
const WORDS_BYTES: usize = 4096;
/// How long they are waited for after its end: our choice.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Carries out `action` about `outage`.
///
/// # Errors
/// What went wrong, in words without secrets.
pub async fn carry_out(action: &Action, outage: &Outage) -> Result<(), String> {
    let done = async {
        match action {
            Action::Http { url, method, headers } => request(url.expose_secret(), method, headers, outage).await,
            Action::Command(command) => run(command, outage).await,
        }
    };
    timeout(DEADLINE, done).await.unwrap_or_else(|_| Err(format!("not done within {} seconds", DEADLINE.as_secs())))
}

async fn request(
    url: &str,
    method: &'static str,
    headers: &[(String, secrecy::SecretString)],
    outage: &Outage,
) -> Result<(), String> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .timeout(DEADLINE)
        .build()
        .map_err(|_| "no HTTP client can be built".to_owned())?;
    let method = reqwest::Method::from_bytes(method.as_bytes()).map_err(|_| "no such method".to_owned())?;
    let mut request = client.request(method, url).header("Idempotency-Key", outage.id.to_string());
    for (name, value) in headers {
        request = request.header(name, value.expose_secret());
    }
    // The error of the client names the URL, which may hold a token.
    let response = request.json(&outage.facts()).send().await.map_err(|error| match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => "no connection".to_owned(),
    })?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("HTTP {}", status.as_u16())),
    }
}

async fn run(command: &[String], outage: &Outage) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Err("no program".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        // Our own settings hold secrets: it gets the way to programs, and what the outage is about.
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .env("OUTAGE_ID", outage.id.to_string())
        .env("OUTAGE_SERVICE", outage.service.as_str())
        .env("OUTAGE_REASON", outage.reason.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {}", error.kind()))?;
    let words = Arc::<Mutex<Vec<u8>>>::default();
    let reading = child.stderr.take().map(|stderr| tokio::spawn(keep_words(stderr, words.clone())));
    let status = child.wait().await.map_err(|error| format!("lost: {}", error.kind()))?;
    if let Some(reading) = reading {
        // What it leaves running may hold on to its words for ever.
        let _ = timeout(LAST_WORDS, reading).await;
    }
    if status.success() {
        return Ok(());
    }
    let words = clean(&String::from_utf8_lossy(&words.lock().unwrap_or_else(PoisonError::into_inner)));
    let code = status.code().map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"));
    Err(if words.is_empty() { format!("ended with {code}") } else { format!("ended with {code}: {words}") })
}

/// Keeps the first words, and throws the rest away, so that a talkative program is not held up.
async fn keep_words(mut stderr: ChildStderr, words: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        let room = WORDS_BYTES.saturating_sub(words.len());
        words.extend(buffer.iter().take(count.min(room)));
    }
}
