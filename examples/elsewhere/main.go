// Elsewhere stands for what the examples start things at: Azure Data Factory with its
// token issuer, Apache Airflow 3 and a Kubernetes API server. It answers as their pages
// say, keeps what was started by its key, and prints it.
//
//	elsewhere 127.0.0.1:28090
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: elsewhere HOST:PORT")
		os.Exit(2)
	}
	e := &elsewhere{started: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /{tenant}/oauth2/v2.0/token", e.token)
	mux.HandleFunc("POST /auth/token", e.token)
	mux.HandleFunc("POST /subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.DataFactory/factories/{f}/pipelines/{pipeline}/createRun", e.pipelineRun)
	mux.HandleFunc("POST /subscriptions/{s}/resourceGroups/{g}/providers/Microsoft.DataFactory/factories/{f}/queryPipelineRuns", e.pipelineRuns)
	mux.HandleFunc("GET /api/v2/dags/{dag}", e.there)
	mux.HandleFunc("POST /api/v2/dags/{dag}/dagRuns", e.dagRun)
	mux.HandleFunc("POST /apis/batch/v1/namespaces/{namespace}/jobs", e.job)
	log.SetFlags(0)
	log.Fatal(http.ListenAndServe(os.Args[1], mux)) //nolint:gosec // an example on loopback
}

// elsewhere keeps what was started.
type elsewhere struct {
	mu      sync.Mutex
	started map[string]bool
	runs    []map[string]any // parameters of pipeline runs
}

// once reports whether something of a name is started for the first time.
func (e *elsewhere) once(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	first := !e.started[name]
	e.started[name] = true
	return first
}

func (e *elsewhere) token(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil || len(body) == 0 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer(w, http.StatusOK, map[string]any{"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600})
}

// allowed refuses who has no token.
func allowed(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Authorization") != "Bearer a-token" {
		answer(w, http.StatusUnauthorized, map[string]any{"error": map[string]string{"code": "Unauthorized", "message": "sign in"}})
		return false
	}
	return true
}

func (e *elsewhere) pipelineRun(w http.ResponseWriter, r *http.Request) {
	var parameters map[string]any
	if !allowed(w, r) || !read(w, r, &parameters) {
		return
	}
	e.mu.Lock()
	e.runs = append(e.runs, parameters)
	e.mu.Unlock()
	fmt.Printf("Data Factory runs pipeline %s with %s\n", r.PathValue("pipeline"), text(parameters))
	answer(w, http.StatusOK, map[string]string{"runId": "1"})
}

func (e *elsewhere) pipelineRuns(w http.ResponseWriter, r *http.Request) {
	if !allowed(w, r) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	value := []any{}
	for _, parameters := range e.runs {
		value = append(value, map[string]any{"parameters": parameters})
	}
	answer(w, http.StatusOK, map[string]any{"value": value})
}

func (e *elsewhere) there(w http.ResponseWriter, r *http.Request) {
	if allowed(w, r) {
		answer(w, http.StatusOK, map[string]string{"dag_id": r.PathValue("dag")})
	}
}

func (e *elsewhere) dagRun(w http.ResponseWriter, r *http.Request) {
	var run struct {
		ID   string         `json:"dag_run_id"`
		Conf map[string]any `json:"conf"`
	}
	if !allowed(w, r) || !read(w, r, &run) {
		return
	}
	if !e.once("dag run " + run.ID) {
		answer(w, http.StatusConflict, map[string]string{"detail": "there is a run of this id"})
		return
	}
	fmt.Printf("Airflow runs DAG %s with %s\n", r.PathValue("dag"), text(run.Conf))
	answer(w, http.StatusOK, map[string]string{"dag_run_id": run.ID, "state": "queued"})
}

func (e *elsewhere) job(w http.ResponseWriter, r *http.Request) {
	var job struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec struct {
			Template struct {
				Spec struct {
					Containers []struct {
						Image string
						Env   []struct{ Name, Value string }
					}
				}
			}
		}
	}
	if !allowed(w, r) || !read(w, r, &job) {
		return
	}
	if !e.once("job " + job.Metadata.Name) {
		answer(w, http.StatusConflict, map[string]string{"reason": "AlreadyExists"})
		return
	}
	for _, c := range job.Spec.Template.Spec.Containers {
		for _, env := range c.Env {
			if env.Name == "EVENT_JSON" {
				fmt.Printf("Kubernetes runs a Job of %s in namespace %s with %s\n", c.Image, r.PathValue("namespace"), env.Value)
			}
		}
	}
	answer(w, http.StatusCreated, map[string]any{"kind": "Job"})
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(into); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"message": "this is not the JSON of it"})
		return false
	}
	return true
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the caller has gone if this fails
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(raw)
}
