//! What a catalog promises, checked on both adapters against real databases, and what only one of
//! them has to promise.

#[path = "catalog/archived.rs"]
mod archived;
#[path = "catalog/fixture.rs"]
mod fixture;
#[path = "catalog/postgres.rs"]
mod postgres;
#[path = "catalog/postgres_sessions.rs"]
mod postgres_sessions;
#[path = "catalog/postgres_standby.rs"]
mod postgres_standby;
#[path = "catalog/postgres_types.rs"]
mod postgres_types;
#[path = "support/private_postgres.rs"]
mod private_postgres;
#[path = "catalog/sqlite.rs"]
mod sqlite;
#[path = "catalog/sqlite_forms.rs"]
mod sqlite_forms;
#[path = "catalog/suite.rs"]
mod suite;

/// One test per promise and adapter.
macro_rules! conformance {
    ($($promise:ident),* $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                crate::suite::$promise::<crate::postgres::PostgresFixture>().await;
            })*
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                crate::suite::$promise::<crate::sqlite::SqliteFixture>().await;
            })*
        }
    };
}

conformance!(
    a_window_holds_its_end_and_not_its_start,
    windows_side_by_side_hold_every_row_once,
    nulls_are_counted_or_become_defects,
    any_text_comes_through_unchanged,
    long_uids_and_locations_become_defects,
    integer_uids_are_taken_as_text,
    counts_and_sums_are_of_the_range,
    files_are_counted_alone_as_beside_their_sizes,
    without_a_size_column_there_are_no_bytes,
    sizes_that_are_none_are_not_checked,
    the_oldest_row_after_a_time_is_found,
    what_others_write_for_never_is_in_no_window,
    an_empty_table_is_no_error,
    names_that_need_quotes_are_found,
    a_missing_table_or_column_is_named_with_what_there_is,
    an_index_on_created_at_is_noticed,
    a_large_scan_is_complete_through_a_small_channel,
    batches_are_bounded_in_bytes,
    a_receiver_that_goes_ends_the_scan,
    a_second_scan_sees_new_rows,
    the_clock_is_now,
    rows_are_marked_by_all_that_they_are_told_by,
    integer_uids_are_marked,
    a_column_that_cannot_say_it_is_refused,
    a_load_query_answers_its_largest_number,
    a_load_query_that_cannot_run_says_why,
);
