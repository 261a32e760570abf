package manage

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/carillon-events/carillon/internal/access"
	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/resource"
)

// DeadLetterChange is a dead-letter destination as a request gives it.
type DeadLetterChange struct {
	None       bool   // the one that is there is taken away; nothing else is set
	Target     string // of the destination in the body: deadLetterDestination, or the same below deadLetterWithResourceIdentity
	Type       string
	ResourceID string
	Container  string
	Directory  string

	Identity     json.RawMessage // of deadLetterWithResourceIdentity, nil for none
	IdentityType string
	IdentityID   string // of a user-assigned identity
}

// typeStorageAccount is the resource that a StorageBlob destination names.
const typeStorageAccount = "Microsoft.Storage/storageAccounts"

var (
	// A container's name. Source: learn.microsoft.com/rest/api/storageservices,
	// "Naming and Referencing Containers, Blobs, and Metadata".
	containerName = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	directoryName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$`)
)

const maxDirectory = 200

// authorizeDeadLetter is the second check of a change that names a storage
// account: nobody may aim dead letters at an account they may not write.
// Source: spec/access.md section 10.
func (p *Plane) authorizeDeadLetter(caller access.Caller, id resource.ID, c *DeadLetterChange) error {
	if c == nil || !strings.EqualFold(c.Type, resource.DeadLetterStorageBlob) {
		return nil
	}
	account, err := resource.ParseID(c.ResourceID)
	if err != nil || !account.IsType(typeStorageAccount) {
		return nil // said with the other problems
	}
	container := account
	if containerName.MatchString(c.Container) {
		container = account.Child("blobServices", "default").Child("containers", c.Container)
	}
	if p.Access.Allowed(caller, typeStorageAccount+"/blobServices/containers/write", container) {
		return nil
	}
	return p.Access.CheckLinked(caller, action(id, "write"), id, typeStorageAccount+"/write", account)
}

// deadLetter checks a dead-letter destination. Source: spec/delivery.md section 7.1.
func (v *checker) deadLetter(c *DeadLetterChange, check func(*resource.DeadLetterDestination) error) *resource.DeadLetterDestination {
	if c.None {
		return nil
	}
	before := len(v.problems)
	d := &resource.DeadLetterDestination{Identity: c.Identity}
	if c.Identity != nil {
		v.identity(c)
	}
	var known bool
	d.Type, known = oneOf(c.Type, resource.DeadLetterStorageBlob, resource.DeadLetterLocalDirectory)
	properties := c.Target + ".properties."
	switch {
	case !known && c.Type == "":
		v.field(c.Target+".endpointType", "A dead-letter destination needs an endpointType: StorageBlob, or LocalDirectory for a directory of the server.")
	case !known:
		v.field(c.Target+".endpointType", "The endpoint type '%.80s' takes no dead letters: use StorageBlob, or LocalDirectory for a directory of the server.", c.Type)
	case d.Type == resource.DeadLetterLocalDirectory:
		d.Directory = c.Directory
		if len(d.Directory) > maxDirectory || !directoryName.MatchString(d.Directory) || !filepath.IsLocal(filepath.FromSlash(d.Directory)) {
			v.field(properties+"directory", "The directory '%.80s' cannot be used: name one below the root that the operator gave, of letters, digits, '_', '-' and '.', for example team/letters, with at most %d characters.", c.Directory, maxDirectory)
		}
	default:
		account, err := resource.ParseID(c.ResourceID)
		if err != nil || !account.IsType(typeStorageAccount) {
			v.field(properties+"resourceId", "The resourceId '%.200s' is not that of a storage account: write it like /subscriptions/…/resourceGroups/…/providers/%s/NAME.", c.ResourceID, typeStorageAccount)
		}
		d.Account, d.Container = account, c.Container
		if n := len(c.Container); n < 3 || n > 63 || !containerName.MatchString(c.Container) {
			v.field(properties+"blobContainerName", "The container '%.80s' cannot be used: a container's name has 3 to 63 lower-case letters, digits and single hyphens, with a letter or digit at both ends.", c.Container)
		}
	}
	if len(v.problems) > before {
		return nil
	}
	if check == nil {
		v.field(c.Target, "This server writes dead letters nowhere: leave %s out.", c.Target)
	} else if err := check(d); err != nil {
		v.add(fault.Field(v.target+c.Target, "The dead-letter destination cannot be used: %v.", err))
	}
	return d
}

// identity checks the identity that dead letters are to be written with. It is kept
// and shown; the connection that the operator gave is what is used.
func (v *checker) identity(c *DeadLetterChange) {
	target := strings.TrimSuffix(c.Target, ".deadLetterDestination") + ".identity"
	kind, known := oneOf(c.IdentityType, "SystemAssigned", "UserAssigned")
	_, err := resource.ParseID(c.IdentityID)
	switch {
	case !known:
		v.field(target+".type", "The identity type '%.80s' is not known: use SystemAssigned or UserAssigned.", c.IdentityType)
	case kind == "UserAssigned" && err != nil:
		v.field(target+".userAssignedIdentity", "A UserAssigned identity needs its full resource id in userAssignedIdentity.")
	case kind == "SystemAssigned" && c.IdentityID != "":
		v.field(target+".userAssignedIdentity", "A SystemAssigned identity has no userAssignedIdentity: leave it out.")
	}
}
