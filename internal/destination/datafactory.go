package destination

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/carillon-events/carillon/internal/fault"
)

// dataFactory runs a pipeline. createRun knows no key, so the id of the event travels as a
// parameter, and before a second attempt the runs of the pipeline are looked through for
// it. Source: spec/handlers.md section 6.
var dataFactory = adapter{
	request: func(t *trigger, o *occurrence) (outgoing, error) {
		parameters, err := t.parameters(o)
		if err != nil {
			return outgoing{}, err
		}
		address, err := t.azure(t.values.ID("resourceId").String() + "/createRun")
		if err != nil {
			return outgoing{}, err
		}
		return post(address, parameters)
	},
	judge:  byTable([]int{200}, []int{400, 403}),
	sign:   azureToken,
	before: dataFactoryRan,
}

// idParameter is the parameter that holds the event's id.
func (t *trigger) idParameter() string { return t.setting("idParameter") }

func (t *trigger) parameters(o *occurrence) (map[string]any, error) {
	parameters, err := o.object()
	if err != nil {
		return nil, err
	}
	parameters[t.idParameter()] = o.text("id")
	return parameters, nil
}

// azureSettings are a connection of a resource that is asked through Azure's resource
// manager: "TenantId=…;ClientId=…;ClientSecret=…", and for other clouds and stand-ins
// Authority and Endpoint.
func (c *targetConfig) azureSettings() (map[string]string, error) {
	settings, err := c.connection()
	if err != nil {
		return nil, err
	}
	settings, err = factorySettings(settings)
	if err != nil {
		return nil, unready("the connection string of %s %w", c.values.ID("resourceId"), err)
	}
	return settings, nil
}

func factorySettings(settings map[string]string) (map[string]string, error) {
	for _, needed := range []string{"tenantid", "clientid", "clientsecret"} {
		if settings[needed] == "" {
			return nil, errors.New("cannot be used: it needs TenantId, ClientId and ClientSecret")
		}
	}
	for name, otherwise := range map[string]string{"authority": "https://login.microsoftonline.com", "endpoint": "https://management.azure.com"} {
		if settings[name] == "" {
			settings[name] = otherwise
		}
		settings[name] = strings.TrimRight(settings[name], "/")
	}
	return settings, nil
}

// connection are the values of the connection of the resource, or of what it is part of.
func (c *targetConfig) connection() (map[string]string, error) {
	text, err := c.connections.ofEntity(c.values.ID("resourceId"))
	return connectionValues(text), err
}

// azure is the address of something in Azure's resource manager.
func (t *trigger) azure(path string) (string, error) {
	settings, err := t.azureSettings()
	if err != nil {
		return "", err
	}
	return settings["endpoint"] + path + "?api-version=2018-06-01", nil
}

// azureToken signs in as the connection's application, by client credentials.
// Source: spec/access.md section 3.3.
func azureToken(ctx context.Context, t *trigger, out *outgoing, refresh bool) error {
	text, err := t.tokens.get(ctx, t.connectionString(), refresh, func(ctx context.Context) (string, time.Time, error) {
		settings, err := t.azureSettings()
		if err != nil {
			return "", time.Time{}, &credentialError{err.Error()}
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {settings["clientid"]}, "client_secret": {settings["clientsecret"]}, "scope": {settings["endpoint"] + "/.default"}}
		r, err := t.ask(ctx, outgoing{
			method: http.MethodPost, url: settings["authority"] + "/" + url.PathEscape(settings["tenantid"]) + "/oauth2/v2.0/token",
			header: []attribute{{name: "Content-Type", value: "application/x-www-form-urlencoded"}}, body: []byte(form.Encode()), until: out.until,
		})
		if err != nil {
			return "", time.Time{}, err
		}
		var answer struct {
			AccessToken string `json:"access_token"`
			ExpiresIn   int    `json:"expires_in"`
		}
		if r.status != http.StatusOK || json.Unmarshal(r.body, &answer) != nil || answer.AccessToken == "" {
			return "", time.Time{}, &credentialError{"the token issuer does not take the client id and secret of the connection"}
		}
		return answer.AccessToken, time.Now().Add(time.Duration(answer.ExpiresIn)*time.Second - 5*time.Minute), nil
	})
	if err == nil {
		out.add("Authorization", "Bearer "+text)
	}
	return err
}

// dataFactoryWindow is how long before now runs are looked for: no event is tried for
// longer than a day.
const dataFactoryWindow = 25 * time.Hour

// dataFactoryRan looks for a run of the pipeline that has the event's id.
func dataFactoryRan(ctx context.Context, t *trigger, o *occurrence) (bool, error) {
	pipeline := t.values.ID("resourceId")
	address, err := t.azure(pipeline.Parent().String() + "/queryPipelineRuns")
	if err != nil {
		return false, &credentialError{err.Error()}
	}
	now, next := time.Now().UTC(), ""
	for range 20 { // pages
		query := map[string]any{
			"lastUpdatedAfter": now.Add(-dataFactoryWindow).Format(time.RFC3339), "lastUpdatedBefore": now.Add(time.Hour).Format(time.RFC3339),
			"filters": []any{map[string]any{"operand": "PipelineName", "operator": "Equals", "values": []string{pipeline.Name()}}},
		}
		if next != "" {
			query["continuationToken"] = next
		}
		out, err := post(address, query)
		if err != nil {
			return false, err
		}
		out.until = o.until
		r, err := t.exchange(ctx, out, false)
		if err != nil {
			return false, err
		}
		var answer struct {
			Value []struct {
				Parameters map[string]string `json:"parameters"`
			} `json:"value"`
			ContinuationToken string `json:"continuationToken"`
		}
		if r.status != http.StatusOK || json.Unmarshal(r.body, &answer) != nil {
			return false, nil // it cannot be told; at least once is the promise
		}
		for _, run := range answer.Value {
			if run.Parameters[t.idParameter()] == o.text("id") {
				return true, nil
			}
		}
		if next = answer.ContinuationToken; next == "" {
			break
		}
	}
	return false, nil
}

func checkDataFactory(c *targetConfig) error {
	if _, err := c.azureSettings(); err != nil {
		return fault.Field("resourceId", "The pipeline cannot be used: %v.", err)
	}
	return nil
}

// inherited is connection where it has the address of the resource.
func (c *targetConfig) inherited() (map[string]string, error) {
	settings, err := c.connection()
	if err != nil {
		return nil, err
	}
	u, problem := url.Parse(settings["endpoint"])
	if problem != nil || u.Host == "" {
		return nil, unready("the connection string of %s cannot be used: it needs Endpoint, an address", c.values.ID("resourceId"))
	}
	settings["endpoint"] = strings.TrimRight(settings["endpoint"], "/")
	return settings, nil
}

func checkInherited(c *targetConfig) error {
	if _, err := c.inherited(); err != nil {
		return fault.Field("resourceId", "The resource cannot be used: %v.", err)
	}
	return nil
}
