//! What each identity must be allowed on Azure, and nothing beyond: definitions of roles to hand to the provider.
//!
//! The actions are those of Microsoft's "Authorize with Microsoft Entra ID", table "Permissions for Blob service operations", and "Azure
//! permissions for Storage". A test holds each document to exactly its actions; whether Azure asks for no more could not be tried.
//!
//! Two things that the documents for S3 do are not to be had here. A role ends at the container, not at a prefix (a condition of the assignment
//! can narrow it). And who may set a policy may remove an unlocked one, which is why only locked ones are set.

use serde_json::{Value, json};

use crate::stores::Role;

/// To make a blob that is not there. Overwriting is another right (`blobs/write`).
const ADD: &str = "add/action";
/// To set policies. Of a locked one, nobody may do more than lengthen it.
const SET_POLICIES: &str = "immutableStorage/runAsSuperUser/action";

/// The definition of a role at a site: an account's container, and whether what is stored is locked. Where it is assignable,
/// `SUBSCRIPTION` and `GROUP` stand for what only the operator knows.
pub fn azure_permissions(role: Role, account: &str, container: &str, locked: bool) -> Value {
    let blobs = |action: &str| format!("Microsoft.Storage/storageAccounts/blobServices/containers/blobs/{action}");
    let mut data_actions = vec![blobs("read"), blobs(ADD)];
    if locked {
        data_actions.push(blobs(SET_POLICIES));
    }
    if role == Role::Pruner {
        data_actions.push(blobs("delete"));
        if locked {
            data_actions.push(blobs("deleteBlobVersion/action"));
        }
    }
    // `init` reads of the container whether its blobs can be locked.
    let looks = locked && role == Role::Writer;
    let actions: &[&str] = if looks { &["Microsoft.Storage/storageAccounts/blobServices/containers/read"] } else { &[] };
    json!({
        "Name": format!("Farshore {} of {account}/{container}", role.word()),
        "IsCustom": true,
        "Description": format!(
            "Assign it with the scope .../storageAccounts/{account}/blobServices/default/containers/{container}, and with none above"
        ),
        "Actions": actions,
        "NotActions": [],
        "DataActions": data_actions,
        "NotDataActions": [],
        "AssignableScopes": ["/subscriptions/SUBSCRIPTION/resourceGroups/GROUP"],
    })
}

#[cfg(test)]
mod tests {
    use super::{Role, azure_permissions};

    fn actions(role: Role, locked: bool) -> Vec<String> {
        let document = azure_permissions(role, "acc", "con", locked);
        let all = ["Actions", "DataActions"].iter().flat_map(|kind| document[kind].as_array().unwrap().clone());
        let short = |action: serde_json::Value| {
            let action = action.as_str().unwrap().to_owned();
            action.strip_prefix("Microsoft.Storage/storageAccounts/blobServices/containers/").unwrap().to_owned()
        };
        all.map(short).collect()
    }

    #[test]
    fn each_role_has_exactly_its_actions() {
        let policies = "blobs/immutableStorage/runAsSuperUser/action";
        let table: [(Role, bool, &[&str]); 6] = [
            (Role::Writer, false, &["blobs/read", "blobs/add/action"]),
            (Role::Writer, true, &["read", "blobs/read", "blobs/add/action", policies]),
            (Role::Reader, false, &["blobs/read", "blobs/add/action"]),
            (Role::Reader, true, &["blobs/read", "blobs/add/action", policies]),
            (Role::Pruner, false, &["blobs/read", "blobs/add/action", "blobs/delete"]),
            (Role::Pruner, true, &["blobs/read", "blobs/add/action", policies, "blobs/delete", "blobs/deleteBlobVersion/action"]),
        ];
        for (role, locked, expected) in table {
            assert_eq!(actions(role, locked), expected, "{role:?}, locked: {locked}");
        }
    }

    #[test]
    fn each_document_names_its_container_and_is_called_after_its_role() {
        for role in Role::ALL {
            let document = azure_permissions(role, "acc", "con", true);
            assert_eq!(document["Name"], format!("Farshore {} of acc/con", role.word()));
            assert!(
                document["Description"].as_str().unwrap().contains("/storageAccounts/acc/blobServices/default/containers/con,")
            );
        }
    }
}
