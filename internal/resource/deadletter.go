package resource

import "encoding/json"

// DeadLetterDestination is where the dead letters of an event subscription are
// written, beside the server's own store of them. The members of its Type are set.
type DeadLetterDestination struct {
	Type string `json:"type"` // DeadLetterStorageBlob or DeadLetterLocalDirectory

	Account   ID     `json:"account,omitzero"`    // StorageBlob: the storage account
	Container string `json:"container,omitempty"` // StorageBlob: a container in it, which has to be there

	Directory string `json:"directory,omitempty"` // LocalDirectory: below the root that the operator gave, segments separated by '/'

	Identity json.RawMessage `json:"identity,omitempty"` // of deadLetterWithResourceIdentity, as it came; nil = deadLetterDestination was given
}

// The endpointTypes of dead-letter destinations. StorageBlob is the one that Event
// Grid has; Source: spec/delivery.md section 7.1. LocalDirectory is Carillon's own.
const (
	DeadLetterStorageBlob    = "StorageBlob"
	DeadLetterLocalDirectory = "LocalDirectory"
)

// String names the destination for people: it holds no secret.
func (d *DeadLetterDestination) String() string {
	if d.Type == DeadLetterLocalDirectory {
		return "directory " + d.Directory
	}
	return "container " + d.Container + " of " + d.Account.String()
}

// Store is equal for destinations that are written to the same place.
func (d *DeadLetterDestination) Store() string {
	if d.Type == DeadLetterLocalDirectory {
		return d.Type + " " + d.Directory
	}
	return d.Type + " " + d.Account.Key() + " " + d.Container
}
