//! The time, for `now()` and `strftime`.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use minijinja::value::{Object, ObjectRepr, from_args};
use minijinja::{Error, ErrorKind, State, Value as Jinja};
use std::fmt;
use std::sync::Arc;

fn at(second: Option<f64>, utc: bool) -> Result<Zoned, String> {
    let stamp = match second {
        None => Timestamp::now(),
        Some(second) => Timestamp::from_microsecond((second * 1e6) as i64).map_err(|error| error.to_string())?,
    };
    Ok(stamp.to_zoned(if utc { TimeZone::UTC } else { TimeZone::system() }))
}

/// Now, or a second since 1970, in a form of strftime(3).
pub(super) fn format(form: &str, second: Option<f64>, utc: bool) -> Result<String, String> {
    print(form, &at(second, utc)?)
}

fn print(form: &str, time: &Zoned) -> Result<String, String> {
    jiff::fmt::strtime::format(form, time).map_err(|error| error.to_string())
}

/// What `now()` gives: the parts and methods of Python's `datetime` that templates use.
#[derive(Debug)]
struct Now(Zoned);

pub(super) fn now(utc: bool) -> Result<Jinja, String> {
    Ok(Jinja::from_object(Now(at(None, utc)?)))
}

impl Object for Now {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        Some(match key.as_str()? {
            "year" => Jinja::from(self.0.year()),
            "month" => Jinja::from(self.0.month()),
            "day" => Jinja::from(self.0.day()),
            "hour" => Jinja::from(self.0.hour()),
            "minute" => Jinja::from(self.0.minute()),
            "second" => Jinja::from(self.0.second()),
            "microsecond" => Jinja::from(i32::from(self.0.millisecond()) * 1000 + i32::from(self.0.microsecond())),
            _ => return None,
        })
    }

    fn call_method(self: &Arc<Self>, _state: &mut State<'_, '_>, method: &str, args: &[Jinja]) -> Result<Jinja, Error> {
        match method {
            "strftime" => {
                let (form,): (&str,) = from_args(args)?;
                print(form, &self.0)
                    .map(Jinja::from)
                    .map_err(|message| Error::new(ErrorKind::InvalidOperation, message))
            }
            "isoformat" => {
                let () = from_args(args)?;
                Ok(Jinja::from(self.0.datetime().to_string()))
            }
            "timestamp" => {
                let () = from_args(args)?;
                Ok(Jinja::from(self.0.timestamp().as_microsecond() as f64 / 1e6))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print("%Y-%m-%d %H:%M:%S.%6f", &self.0).map_err(|_| fmt::Error)?)
    }
}
