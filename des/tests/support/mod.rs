//! What the end-to-end tests share: a place with source files, a catalog and a configuration, and
//! real `des` processes that run on it.

mod catalog;
mod drill;
mod nobody;
mod place;
mod process;
mod scrape;

pub(crate) use catalog::Sql;
pub(crate) use drill::{RESTORE, Step, steps};
pub(crate) use nobody::as_nobody;
pub(crate) use place::{LAG_DAYS, Made, Place, incompressible, text};
pub(crate) use process::{Run, Running};
pub(crate) use scrape::{Scrape, get, label_values_of_paper, of_paper};
