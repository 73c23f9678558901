//! The conformance suite of the ledger: what every adapter keeps to, on real databases.

mod ledger_support;
#[path = "support/stalling_proxy.rs"]
mod stalling_proxy;

use ledger_support::{PostgresBench, SqliteBench};

macro_rules! conformance {
    ($($suite:ident: $($test:ident),+;)+) => {
        mod postgres {
            use super::*;
            $($(
                #[tokio::test]
                async fn $test() {
                    let bench = PostgresBench::new().await;
                    ledger_support::$suite::$test(&bench).await;
                    bench.close().await;
                }
            )+)+
        }

        mod sqlite {
            use super::*;
            $($(
                #[tokio::test]
                async fn $test() {
                    let bench = SqliteBench::new().await;
                    ledger_support::$suite::$test(&bench).await;
                    bench.close().await;
                }
            )+)+
        }
    };
}

conformance! {
    setup_suite:
        an_empty_database_becomes_a_ledger,
        many_may_migrate_at_once,
        the_printed_sql_leaves_nothing_pending,
        tables_of_another_release_are_refused,
        an_archive_is_registered_once,
        of_two_archives_one_is_registered,
        times_are_exact_to_the_microsecond;
    lease_suite:
        lease_passes_from_one_to_the_next,
        an_expired_lease_is_ours_until_somebody_takes_it,
        of_many_who_want_it_one_gets_it,
        a_stale_holder_changes_nothing,
        an_action_given_up_midway_leaves_no_lock;
    windows_suite:
        a_window_is_recorded_with_its_partitions,
        recording_a_window_again_changes_nothing,
        windows_are_listed_in_order,
        a_receipt_is_accepted_once,
        a_setback_is_remembered,
        an_accepted_partition_can_be_reopened,
        a_window_is_held_and_let_go,
        a_window_may_have_very_many_partitions,
        jobs_do_not_see_each_other;
    rework_suite:
        a_partition_is_superseded_by_its_parts,
        what_is_not_exactly_the_partition_does_not_supersede_it,
        numbers_are_never_used_twice,
        a_held_window_is_released_with_what_failed,
        a_held_window_is_tried_again,
        only_a_held_window_is_released_or_tried_again,
        a_window_that_is_tried_again_may_be_split_anew,
        an_open_window_is_planned_again,
        what_a_partition_waits_for_is_remembered,
        what_the_watermark_cannot_pass_is_remembered;
    commit_suite:
        a_commit_makes_everything_true_at_once,
        committing_again_changes_nothing,
        a_watermark_moved_by_hand_stops_the_commit,
        a_settled_until_elsewhere_stops_the_commit,
        what_was_not_accepted_is_not_committed,
        a_commit_that_fails_midway_changes_nothing,
        of_two_coordinators_one_commits,
        a_successor_and_its_predecessor_do_not_both_commit,
        a_later_revision_leaves_the_watermark,
        a_pass_with_nothing_to_do_leaves_no_record,
        error_rows_are_kept_until_a_later_pass_settles_them,
        many_error_rows_are_recorded_in_order,
        every_reason_and_odd_text_reads_back;
    operator_suite:
        a_replay_is_requested_once_and_then_planned,
        only_a_committed_window_can_be_replayed,
        a_request_is_not_committed_unplanned,
        a_request_keeps_what_it_is_for,
        a_look_tells_what_the_catalog_had,
        a_window_is_rechecked_once,
        windows_with_error_rows_are_listed,
        the_watermark_can_be_moved_back,
        the_watermark_can_skip_forward,
        an_adjustment_from_elsewhere_changes_nothing,
        an_adjustment_needs_its_lease,
        the_audit_log_only_grows;
    listing_suite:
        passes_are_listed_the_newest_first,
        a_pass_says_since_when_it_is_what_it_is,
        error_rows_are_listed_the_newest_first;
    pause_suite:
        a_pause_stands_until_it_is_ended,
        a_pause_ends_with_its_time,
        a_pause_of_all_jobs_holds_for_each,
        a_ledger_without_the_table_is_not_paused;
    synced_suite:
        passes_are_marked_once_and_from_where_they_were_left;
    throttle_suite:
        a_throttle_stands_until_it_is_taken_back,
        a_throttle_of_all_jobs_is_every_jobs,
        what_a_leader_waits_for_is_remembered,
        a_ledger_without_the_table_is_not_throttled;
    adopt_suite:
        an_empty_ledger_takes_up_what_is_certified,
        an_older_ledger_is_completed,
        adopting_needs_its_lease,
        adopting_contradicts_nothing;
}
