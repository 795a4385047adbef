//! 14 and 16: what the other tests show of 15, 17 and 18 holds of the versions beside and between them, of which `farshore` promises as much.
//! 14 calls the functions of a backup by other names. Their
//! logs have segments of 32 MiB and of 1 MiB where a log is replayed to a chosen time.

use farshore::sources::postgres::physical::ReadBy;

use super::{
    differential::compare,
    disaster::comes_back,
    examined::is_found_and_mended,
    failures::fails_with_the_reason,
    load::survives,
    point_in_time::{Past, has_exactly_the_markers_before},
    receive_stream::streams,
    rights::{is_refused_and_then_not, what_the_runbook_grants_is_enough},
    standby::is_captured,
};
use crate::{postgres::Server, support::soak};

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_14_that_lacks_rights_is_refused_with_statements_that_are_enough() {
    is_refused_and_then_not(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_runbook_grants_is_enough_on_14() {
    what_the_runbook_grants_is_enough(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_14_of_which_everything_is_wrong_is_told_what_mends_it_and_is_found_mended() {
    is_found_and_mended(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_the_same_as_pg_basebackup_takes_from_14() {
    compare(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_file_is_the_same_as_pg_basebackup_takes_from_16() {
    compare(Server::Sixteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_14_under_load_is_consistent() {
    survives(Server::Fourteen, ReadBy::Sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_of_14_that_lost_what_it_needs_fails_with_the_reason() {
    fails_with_the_reason(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_of_14_is_captured_and_one_that_lacks_whole_pages_or_is_promoted_meanwhile_is_not() {
    is_captured(Server::Fourteen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_a_14_to_a_time_of_a_log_in_large_segments_has_exactly_the_markers_before_it() {
    has_exactly_the_markers_before(Past::archived_with_segments(Server::Fourteen, 32).await, soak(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_of_a_16_to_a_time_of_a_log_in_small_segments_has_exactly_the_markers_before_it() {
    has_exactly_the_markers_before(Past::archived_with_segments(Server::Sixteen, 1).await, soak(3)).await;
}

#[test]
fn a_14_comes_back_at_a_chosen_second_and_at_the_end_of_its_log() {
    comes_back(Server::Fourteen);
}

#[test]
fn what_a_14_streams_is_at_the_site_byte_for_byte_and_the_server_knows_how_far() {
    streams(Server::Fourteen);
}
