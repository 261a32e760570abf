package arm

import (
	"net/http"
	"strings"

	"github.com/carillon-events/carillon/internal/fault"
	"github.com/carillon-events/carillon/internal/manage"
)

// masterKeyBody is the state of the master key; this API is Carillon's own.
type masterKeyBody struct {
	ID         string              `json:"id"`
	Name       string              `json:"name"`
	Type       string              `json:"type"`
	Properties masterKeyProperties `json:"properties"`
}

type masterKeyProperties struct {
	Rotating        bool     `json:"rotating"` // the last change is not done
	KeyID           string   `json:"keyId"`
	Source          string   `json:"source"`
	RotatedOn       *string  `json:"rotatedOn"`
	RetiredKeyIDs   []string `json:"retiredKeyIds"`
	SecretCount     int      `json:"secretCount"`
	SecretsToFollow int      `json:"secretsToFollow"` // still sealed under a retired key
}

func masterKeyOf(k manage.MasterKey) masterKeyBody {
	b := masterKeyBody{
		ID: MasterKeyPath, Name: "default", Type: "Carillon.Secrets/masterKeys",
		Properties: masterKeyProperties{
			Rotating: k.Rotating, KeyID: k.KeyID, Source: k.Source, RetiredKeyIDs: append([]string{}, k.Retired...), SecretCount: k.Secrets, SecretsToFollow: k.Behind,
		},
	}
	if !k.Rotated.IsZero() {
		b.Properties.RotatedOn = orNull(armTime(k.Rotated))
	}
	return b
}

// onlyMasterKey refuses every name but the one that there is.
func onlyMasterKey(r *request) error {
	if !strings.EqualFold(r.names[0], "default") {
		return fault.New(fault.NotFound, "ResourceNotFound", "There is one master key, and its name is 'default', not '%.80s'.", r.names[0])
	}
	return nil
}

func getMasterKey(a *api, r *request) (answer, error) {
	k, err := a.Plane.MasterKey(r.ctx, r.caller)
	if err == nil {
		err = onlyMasterKey(r)
	}
	if err != nil {
		return answer{}, err
	}
	return ok(masterKeyOf(k)), nil
}

// rotateMasterKey answers 202: secrets are sealed anew after it.
func rotateMasterKey(a *api, r *request) (answer, error) {
	k, err := a.Plane.RotateMasterKey(r.ctx, r.caller)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusAccepted, body: masterKeyOf(k)}, nil
}
