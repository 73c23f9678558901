//! One suite for every store, and what each of them may do to us.

use std::time::Duration;

#[path = "store/conformance.rs"]
mod conformance;
#[path = "store/directory.rs"]
mod directory;
#[path = "store/places.rs"]
mod places;
#[path = "store/s3.rs"]
mod s3;
#[path = "support/s3_server.rs"]
mod s3_server;
#[path = "store/uploads.rs"]
mod uploads;

/// No test takes nearly as long; one that hangs fails with its name.
const HANGS: Duration = Duration::from_secs(120);

/// Runs every promise of a suite on a store of its own.
macro_rules! run {
    ($suite:ident on $place:ident: $($promise:ident)*) => {
        mod $place {
            $(#[tokio::test]
            async fn $promise() {
                let place = crate::places::$place();
                let test = crate::$suite::$promise(&place.store);
                tokio::time::timeout(crate::HANGS, test).await.expect("it ends");
            })*
        }
    };
}

/// Runs every promise of a suite on every store.
macro_rules! everywhere {
    ($name:ident runs $suite:ident: $($promise:ident)*) => {
        mod $name {
            run! { $suite on directory: $($promise)* }
            run! { $suite on memory: $($promise)* }
            run! { $suite on s3: $($promise)* }
            run! { $suite on s3_with_prefix: $($promise)* }
        }
    };
}

everywhere! { every_store runs conformance:
    what_is_put_is_read_back
    asking_whether_one_may_write_leaves_nothing
    what_is_put_again_replaces_what_was_there
    a_read_keeps_to_its_limit
    an_object_is_created_once
    of_many_creators_one_succeeds
    a_range_is_read_exactly_or_not_at_all
    the_tail_is_as_long_as_the_object_allows
    what_is_missing_is_not_found
    a_folder_lists_what_lies_below_it
    a_listing_starts_after_a_name
    a_listing_says_when_an_object_was_written
    what_is_deleted_is_gone_and_may_be_deleted_again
    many_write_at_once_and_a_listing_has_them_all
    a_store_that_works_passes_its_check
}

everywhere! { every_upload runs uploads:
    a_file_of_any_size_arrives
    more_bytes_than_one_request_takes_arrive
    an_upload_begins_where_the_file_stands
    what_the_check_refuses_never_appears
    a_refused_upload_leaves_what_was_there
    a_file_that_is_too_short_never_appears
}
