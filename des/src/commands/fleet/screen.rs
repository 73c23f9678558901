//! `des top` in a terminal: drawn anew every second, until `q`, Ctrl-C or a signal.

use std::io::{IsTerminal as _, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use crossterm::cursor::{Hide, MoveTo, Show};
use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
use crossterm::queue;
use crossterm::style::Print;
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
    enable_raw_mode, size,
};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::Coordinator;
use super::frame::{cut, frame};
use super::view::View;
use crate::lifecycle::shutdown_on_signals;
use crate::output::{Exit, Failure, Output};

const EVERY: Duration = Duration::from_secs(1);
/// How often the thread that waits for keys looks whether anybody still wants them.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// What a terminal that does not tell its size is taken for.
const USUAL_SIZE: (u16, u16) = (80, 24);

/// What somebody did at the terminal.
#[derive(Debug, PartialEq, Eq)]
enum Key {
    Quit,
    /// The terminal has another size.
    Redraw,
}

pub(super) async fn run(
    coordinator: &Coordinator,
    first: View,
    output: Output,
) -> Result<Exit, Failure> {
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        return Err(Failure::usage("here is no terminal to draw in: --once prints one view"));
    }
    let shutdown = shutdown_on_signals()?;
    let _terminal = Terminal::take(output)?;
    let mut keys = listen();
    let (mut view, mut lost) = (first, None::<String>);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    draw(output, &view, lost.as_deref())?;
    loop {
        let asked = tokio::select! {
            () = shutdown.cancelled() => return Ok(Exit::Done),
            key = keys.recv() => match key {
                Some(Key::Redraw) => None,
                Some(Key::Quit) | None => return Ok(Exit::Done),
            },
            // An answer that takes long is not waited for when somebody wants to leave.
            asked = async { tick.tick().await; coordinator.ask().await } => Some(asked),
        };
        match asked {
            Some(Ok(told)) => (view, lost) = (told, None),
            Some(Err(error)) => lost = Some(format!("{error:#}")),
            None => {}
        }
        draw(output, &view, lost.as_deref())?;
    }
}

fn draw(output: Output, view: &View, lost: Option<&str>) -> anyhow::Result<()> {
    let size = size().ok().filter(|(width, height)| *width > 0 && *height > 0);
    let size = size.unwrap_or(USUAL_SIZE);
    let mut drawn = Vec::new();
    for (row, line) in (0..).zip(cut(&frame(view, lost), size)) {
        queue!(drawn, MoveTo(0, row), Print(line), Clear(ClearType::UntilNewLine))?;
    }
    queue!(drawn, Clear(ClearType::FromCursorDown))?;
    output.raw(&drawn).context("drawing")
}

/// Waits for keys on a thread of its own, until nobody wants them any more.
fn listen() -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(8);
    thread::spawn(move || {
        while !sender.is_closed() {
            let key = match poll(LOOK_EVERY).and_then(|there| there.then(read).transpose()) {
                Ok(Some(event)) => meaning(&event),
                Ok(None) => None,
                // The terminal is gone.
                Err(_) => Some(Key::Quit),
            };
            if key.is_some_and(|key| sender.blocking_send(key).is_err()) {
                return;
            }
        }
    });
    keys
}

fn meaning(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Redraw),
        Event::Key(key) => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Quit),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Quit),
            _ => None,
        },
        _ => None,
    }
}

/// The terminal, as long as it is drawn in; given back as it was, whatever happens.
struct Terminal {
    output: Output,
}

impl Terminal {
    fn take(output: Output) -> anyhow::Result<Self> {
        enable_raw_mode().context("the terminal does not let itself be drawn in")?;
        let terminal = Self { output };
        let mut taken = Vec::new();
        queue!(taken, EnterAlternateScreen, Hide, Clear(ClearType::All))?;
        output.raw(&taken)?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut given = Vec::new();
        let _in_memory = queue!(given, Show, LeaveAlternateScreen);
        let _nobody_looks = self.output.raw(&given);
        let _nobody_looks = std::io::stdout().flush();
        let _gone_with_the_terminal = disable_raw_mode();
    }
}

#[cfg(test)]
mod tests {
    use crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn q_and_control_c_end_it() {
        let pressed = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = KeyModifiers::NONE;
        assert_eq!(pressed(KeyCode::Char('q'), plain), Some(Key::Quit));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Quit));
        assert_eq!(pressed(KeyCode::Char('c'), plain), None);
        assert_eq!(meaning(&Event::Resize(9, 9)), Some(Key::Redraw));
    }
}
