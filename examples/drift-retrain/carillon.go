package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// carillon talks to the workspace.
type carillon struct {
	workspace string // URL
	token     string
	client    http.Client
}

// connect reads what "carillon env" prints.
func connect() (*carillon, error) {
	authority, err := os.ReadFile(os.Getenv("CARILLON_CA"))
	if err != nil {
		return nil, fmt.Errorf("read CARILLON_CA: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	return &carillon{
		workspace: os.Getenv("CARILLON_URL") + "/subscriptions/00000000-0000-0000-0000-000000000001/resourceGroups/local" +
			"/providers/Microsoft.MachineLearningServices/workspaces/default",
		token:  os.Getenv("CARILLON_TOKEN"),
		client: http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}, nil
}

// create makes an object and reports whether it was not there before.
func (c *carillon) create(path string, properties map[string]any) (bool, error) {
	status, _, err := c.do(http.MethodPut, path, properties, "If-None-Match", "*")
	if status == http.StatusPreconditionFailed {
		return false, nil
	}
	return err == nil, err
}

// change merges properties into an object.
func (c *carillon) change(path string, properties map[string]any) error {
	_, _, err := c.do(http.MethodPatch, path, properties)
	return err
}

// register makes the next version of a model and returns its number.
func (c *carillon) register(model string, properties map[string]any) (string, error) {
	_, raw, err := c.do(http.MethodPost, "models/"+model+"/versions", properties)
	var version struct{ Name string }
	if err == nil {
		err = json.Unmarshal(raw, &version)
	}
	return version.Name, err
}

func (c *carillon) do(method, path string, properties map[string]any, header ...string) (int, []byte, error) {
	body, err := json.Marshal(map[string]any{"properties": properties})
	if err != nil {
		return 0, nil, err
	}
	r, err := http.NewRequest(method, c.workspace+"/"+path+"?api-version=2026-11-01", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.token)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s %s", method, path, answer.Status, raw)
	}
	return answer.StatusCode, raw, err
}
