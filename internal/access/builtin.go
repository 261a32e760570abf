package access

// GUIDs of the built-in roles that code names.
// Source: spec/access.md section 8.
const (
	RoleOwner       = "8e3af657-a8ff-443c-a75c-2fe8c4bcb635"
	RoleContributor = "b24988ac-6180-42a0-ab88-20f7382dd24c"
	RoleReader      = "acdd72a7-3385-48ef-bd42-f606fba81ae7"
)

// builtInRoles returns the roles that ship, with Azure's GUIDs, names and
// permissions. The two TopicSpaces roles are left out: there are no namespaces
// here that they could speak of.
// Source: spec/access.md section 8.
func builtInRoles() []Role {
	const (
		ma = "Microsoft.Authorization/"
		eg = "Microsoft.EventGrid/"
		ml = "Microsoft.MachineLearningServices/"

		readGroups  = "Microsoft.Resources/subscriptions/resourceGroups/read"
		alertRules  = "Microsoft.Insights/alertRules/*"
		deployments = "Microsoft.Resources/deployments/*"
		support     = "Microsoft.Support/*"
		send        = eg + "events/send/action"
		receive     = eg + "events/receive/action"
	)
	dataReads := []string{ma + "*/read", eg + "topics/read", eg + "domains/read", eg + "partnerNamespaces/read", eg + "namespaces/read", readGroups}
	return []Role{
		builtIn(RoleOwner, "Owner", "Everything, role assignments included.",
			Permission{Actions: []string{"*"}}),
		builtIn(RoleContributor, "Contributor", "Everything but the granting of access.",
			Permission{Actions: []string{"*"}, NotActions: []string{
				ma + "*/Delete", ma + "*/Write", ma + "elevateAccess/Action",
				"Microsoft.Blueprint/blueprintAssignments/write", "Microsoft.Blueprint/blueprintAssignments/delete",
				"Microsoft.Compute/galleries/share/action",
				"Microsoft.Purview/consents/write", "Microsoft.Purview/consents/delete",
				"Microsoft.Resources/deploymentStacks/manageDenySetting/action",
				"Microsoft.Subscription/cancel/action", "Microsoft.Subscription/enable/action",
			}}),
		builtIn(RoleReader, "Reader", "Sees every resource and changes none; sees no secrets.",
			Permission{Actions: []string{"*/read"}}),
		builtIn("18d7d88d-d35e-4fb5-a5c3-7773c20a72d9", "User Access Administrator", "Sees every resource and manages access to it.",
			Permission{Actions: []string{"*/read", ma + "*", support}}),
		builtIn("f58310d9-a9f6-439a-9e8d-f62e7b41a168", "Role Based Access Control Administrator", "Sees every resource and assigns roles.",
			Permission{Actions: []string{ma + "roleAssignments/write", ma + "roleAssignments/delete", "*/read", support}}),
		builtIn("1e241071-0855-49ea-94dc-649edcd759de", "EventGrid Contributor", "Manages everything of Event Grid.",
			Permission{Actions: []string{ma + "*/read", eg + "*", alertRules, deployments, readGroups, support}}),
		builtIn("428e0ff0-5e57-4d9c-a221-2c70d0e0a443", "EventGrid EventSubscription Contributor", "Manages event subscriptions.",
			Permission{Actions: []string{
				ma + "*/read", eg + "eventSubscriptions/*", eg + "topicTypes/eventSubscriptions/read",
				eg + "locations/eventSubscriptions/read", eg + "locations/topicTypes/eventSubscriptions/read",
				alertRules, deployments, readGroups, support,
			}}),
		builtIn("2414bbcf-6497-4faf-8c65-045460748405", "EventGrid EventSubscription Reader", "Sees event subscriptions.",
			Permission{Actions: []string{
				ma + "*/read", eg + "eventSubscriptions/read", eg + "topicTypes/eventSubscriptions/read",
				eg + "locations/eventSubscriptions/read", eg + "locations/topicTypes/eventSubscriptions/read", readGroups,
			}}),
		builtIn("d5a91429-5739-47e2-a06b-3470a27159e7", "EventGrid Data Sender", "Publishes events with a token.",
			Permission{Actions: dataReads, DataActions: []string{send}}),
		builtIn("78cbd9e7-9798-4e2e-9b5a-547d9ebb31fb", "EventGrid Data Receiver", "Reads events.",
			Permission{Actions: dataReads, DataActions: []string{receive}}),
		builtIn("1d8c3fe3-8864-474b-8749-01e3783e8157", "EventGrid Data Contributor", "Publishes and reads events.",
			Permission{Actions: dataReads, DataActions: []string{send, receive}}),
		builtIn("f6c7c914-8db3-469d-8ca1-694a8f32e121", "AzureML Data Scientist", "Does everything in a workspace but change the workspace itself or its computes.",
			Permission{
				Actions: []string{ml + "workspaces/*/read", ml + "workspaces/*/action", ml + "workspaces/*/delete", ml + "workspaces/*/write"},
				NotActions: []string{
					ml + "workspaces/delete", ml + "workspaces/write",
					ml + "workspaces/computes/*/write", ml + "workspaces/computes/*/delete", ml + "workspaces/computes/listKeys/action",
					ml + "workspaces/listKeys/action", ml + "workspaces/hubs/write", ml + "workspaces/hubs/delete",
					ml + "workspaces/featurestores/write", ml + "workspaces/featurestores/delete",
				},
			}),
		builtIn("e503ece1-11d0-4e8e-8e2c-7a6c3bf38815", "AzureML Compute Operator", "Manages a workspace's computes.",
			Permission{Actions: []string{ml + "workspaces/computes/*", ml + "workspaces/notebooks/vm/*"}}),
	}
}

func builtIn(id, name, description string, p Permission) Role {
	for _, list := range []*[]string{&p.Actions, &p.NotActions, &p.DataActions, &p.NotDataActions} {
		if *list == nil {
			*list = []string{} // written as [], not as null
		}
	}
	return Role{ID: id, Name: name, Type: BuiltInRole, Description: description, AssignableScopes: []string{"/"}, Permissions: []Permission{p}}
}
