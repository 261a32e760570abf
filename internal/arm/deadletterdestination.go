package arm

import (
	"encoding/json"

	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// deadLetterBody is a dead-letter destination on the wire.
// Source: spec/delivery.md section 7.1.
type deadLetterBody struct {
	EndpointType string `json:"endpointType"`
	Properties   any    `json:"properties"`
}

type blobBody struct {
	ResourceID        string `json:"resourceId"`
	BlobContainerName string `json:"blobContainerName"`
}

// directoryBody is Carillon's own: a directory of the server.
type directoryBody struct {
	Directory string `json:"directory"`
}

type deadLetterIdentityBody struct {
	Identity    json.RawMessage `json:"identity"`
	Destination deadLetterBody  `json:"deadLetterDestination"`
}

// deadLetterOf returns what is shown of a dead-letter destination: in one of two
// members, the one that it was given in.
func deadLetterOf(d *resource.DeadLetterDestination) (plain, withIdentity any) {
	if d == nil {
		return nil, nil
	}
	b := deadLetterBody{d.Type, blobBody{d.Account.String(), d.Container}}
	if d.Type == resource.DeadLetterLocalDirectory {
		b.Properties = directoryBody{d.Directory}
	}
	if d.Identity != nil {
		return nil, deadLetterIdentityBody{d.Identity, b}
	}
	return b, nil
}

// deadLetterChange reads the dead-letter destination of a request, nil when it says
// nothing of one. {} takes away the one that is there.
func deadLetterChange(p fields) *manage.DeadLetterChange {
	const plain, withIdentity = "deadLetterDestination", "deadLetterWithResourceIdentity"
	d, given := p.object(plain)
	outer, managed := p.object(withIdentity)
	switch {
	case given && managed:
		p.refuse(withIdentity, "Dead letters go to one destination: give %s or %s, not both.", plain, withIdentity)
		return nil
	case given && len(d.members) == 0:
		return &manage.DeadLetterChange{None: true}
	case given:
		return destinationOfLetters(d, plain)
	case !managed:
		return nil
	}
	if d, given = outer.object(plain); !given {
		p.refuse(withIdentity+"."+plain, "%s needs a %s.", withIdentity, plain)
		return nil
	}
	c := destinationOfLetters(d, withIdentity+"."+plain)
	identity := outer.sub("identity")
	c.IdentityType, c.IdentityID = identity.str("type"), identity.str("userAssignedIdentity")
	shown := map[string]string{"type": c.IdentityType}
	if c.IdentityID != "" {
		shown["userAssignedIdentity"] = c.IdentityID
	}
	c.Identity, _ = json.Marshal(shown) // texts can be encoded
	return c
}

func destinationOfLetters(d fields, target string) *manage.DeadLetterChange {
	properties := d.sub("properties")
	return &manage.DeadLetterChange{
		Target: target, Type: d.str("endpointType"), ResourceID: properties.str("resourceId"),
		Container: properties.str("blobContainerName"), Directory: properties.str("directory"),
	}
}
