//! Database and store URLs, in the forms that users of the predecessor write them.

use std::path::{Path, PathBuf};

/// Which database.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum DatabaseUrl {
    /// A PostgreSQL URL, scheme `postgresql`, password and all.
    Postgres(String),
    /// A file.
    Sqlite(PathBuf),
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Postgres(_) => f.write_str("Postgres(***)"),
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
        }
    }
}

impl DatabaseUrl {
    /// Reads a database URL. `sqlite:///file` is relative and `sqlite:////file` absolute, as in
    /// the predecessor; where only the absolute reading of the first form exists, that is meant.
    ///
    /// # Errors
    /// Which schemes there are. The URL itself is not repeated, since it may hold a password.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or(
            "it is not a URL: use postgresql://user:password@host:5432/database or sqlite:///file",
        )?;
        let dialect = scheme.split('+').next().unwrap_or_default();
        match dialect {
            "postgresql" | "postgres" if rest.is_empty() => Err("it names no host".to_owned()),
            "postgresql" | "postgres" if !is_encoded(rest) => Err(
                "the user or the password holds a character that must be percent-encoded: @ is \
                 %40, / is %2F, : is %3A, # is %23, ? is %3F"
                    .to_owned(),
            ),
            "postgresql" | "postgres" => Ok(Self::Postgres(format!("postgresql://{rest}"))),
            "sqlite" => sqlite_path(rest).map(Self::Sqlite),
            "mysql" | "mariadb" => {
                Err("MySQL and MariaDB are not supported yet; PostgreSQL and SQLite are".to_owned())
            }
            other => Err(format!(
                "`{other}://` is not a database that des knows: use postgresql:// or sqlite:///"
            )),
        }
    }

    /// The file of a SQLite database, from the root on: which one is meant, since a URL may be read in
    /// two ways.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Postgres(_) => None,
            Self::Sqlite(path) => {
                Some(std::path::absolute(path).unwrap_or_else(|_nowhere| path.clone()))
            }
        }
    }
}

/// Whether the one `@` of the address, if any, stands before its first `/`, as it does unless a
/// user or password holds such characters as they are: part of it would be taken for the host.
fn is_encoded(rest: &str) -> bool {
    let address = rest.split('?').next().unwrap_or_default();
    let host_and_user = address.split('/').next().unwrap_or_default();
    address.matches('@').count() == host_and_user.matches('@').count()
        && host_and_user.matches('@').count() <= 1
}

fn sqlite_path(rest: &str) -> Result<PathBuf, String> {
    let path = rest.split('?').next().unwrap_or_default();
    let path = path.strip_prefix('/').unwrap_or(path);
    if path.is_empty() || path == ":memory:" {
        return Err(
            "des needs a file, so that what is done outlives it: use sqlite:///file".to_owned()
        );
    }
    let relative = Path::new(path);
    let absolute = Path::new("/").join(path);
    let exists = |path: &Path| {
        path.exists() || path.parent().is_some_and(|it| it != Path::new("") && it.is_dir())
    };
    if relative.is_relative() && !exists(relative) && path.contains('/') && exists(&absolute) {
        return Ok(absolute);
    }
    Ok(relative.to_owned())
}

/// Splits `s3://bucket/prefix`.
///
/// # Errors
/// When there is no bucket.
pub(crate) fn bucket_and_prefix(rest: &str) -> Result<(String, String), String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("it names no bucket: use s3://bucket/prefix".to_owned());
    }
    Ok((bucket.to_owned(), prefix.trim_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_predecessors_forms_are_understood() {
        for url in ["postgresql://u:p@h/d", "postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"] {
            assert_eq!(
                DatabaseUrl::parse(url),
                Ok(DatabaseUrl::Postgres("postgresql://u:p@h/d".to_owned())),
                "{url}"
            );
        }
        let sqlite = |url: &str| match DatabaseUrl::parse(url) {
            Ok(DatabaseUrl::Sqlite(path)) => path,
            other => panic!("{url}: {other:?}"),
        };
        assert_eq!(sqlite("sqlite:///files.db"), Path::new("files.db"));
        assert_eq!(sqlite("sqlite:////nowhere/files.db"), Path::new("/nowhere/files.db"));
        assert_eq!(sqlite("sqlite:///nowhere/files.db"), Path::new("nowhere/files.db"));
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("files.db");
        let meant = format!("sqlite://{}", file.display());
        assert_eq!(sqlite(&meant), file);
        let whole = |url: &str| DatabaseUrl::parse(url).expect("a URL").file();
        assert_eq!(whole(&meant), Some(file));
        let here = std::env::current_dir().expect("a directory");
        assert_eq!(whole("sqlite:///files.db"), Some(here.join("files.db")));
        assert_eq!(whole("postgresql://u:p@h/d"), None);
    }

    #[test]
    fn what_is_not_supported_says_so_without_the_password() {
        for url in [
            "mysql://u:hunter2@h/d",
            "oracle://u:hunter2@h",
            "hunter2",
            "sqlite://",
            "postgresql://u:a@hunter2@h/d",
            "postgresql://u:a/hunter2@h/d",
            "postgresql://u:hunter2@a/hunter2@h/d",
        ] {
            let error = DatabaseUrl::parse(url).expect_err(url);
            assert!(!error.contains("hunter2"), "{error}");
        }
        let printed = format!("{:?}", DatabaseUrl::parse("postgres://u:hunter2@h/d"));
        assert!(!printed.contains("hunter2"));
    }
}
