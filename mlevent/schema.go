package mlevent

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// Member is a property of a payload, as a reader of events sees it.
type Member struct {
	Name        string // camelCase; capitalised by the documented casing in model and drift events
	Description string
	Table       bool // an object whose members are strings, such as modelTags
}

// Members returns the properties of an event type's payload in the order in which
// they are written, nil for a type that is not one of [AllTypes].
func Members(eventType string) []Member {
	d := describe(eventType)
	if d == nil {
		return nil
	}
	var list []Member
	for _, m := range slices.Concat(d.members, stampMembers) {
		list = append(list, Member{m.name, m.says, m.kind == tableMember})
	}
	return list
}

// Describe returns a title for an event type and a sentence that says when it is
// raised, "" for a type that is not one of [AllTypes].
func Describe(eventType string) (title, description string) {
	if d := describe(eventType); d != nil {
		return d.title, d.says
	}
	return "", ""
}

// Schema returns the JSON Schema of an event type, draft 2020-12, false for a type
// that is not one of [AllTypes]. It describes one event in either envelope, as it is
// delivered, and its data in either casing. id is where the document is found, ""
// leaves it out. Unknown members are valid: readers have to ignore them.
func Schema(eventType, id string) (document []byte, ok bool) {
	d := describe(eventType)
	if d == nil {
		return nil, false
	}
	camel := d.data(CamelCase)
	data := camel
	defs := map[string]*node{"eventGridEvent": d.eventGridEvent(), "cloudEvent": d.cloudEvent()}
	if d.capitals {
		defs["camelCase"], defs["documented"] = camel, d.data(Documented)
		data = &node{AnyOf: []*node{ref("camelCase"), ref("documented")}}
	}
	defs["data"] = data
	root := node{
		Schema: "https://json-schema.org/draft/2020-12/schema", ID: id, Title: d.eventType, Description: d.says,
		AnyOf: []*node{ref("eventGridEvent"), ref("cloudEvent")}, Defs: defs,
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(&root); err != nil {
		panic(err) // nodes hold nothing that JSON cannot
	}
	return out.Bytes(), true
}

// node is a schema of JSON Schema, with the keywords that are needed here.
type node struct {
	Schema               string           `json:"$schema,omitempty"`
	ID                   string           `json:"$id,omitempty"`
	Ref                  string           `json:"$ref,omitempty"`
	Title                string           `json:"title,omitempty"`
	Description          string           `json:"description,omitempty"`
	Type                 any              `json:"type,omitempty"` // a name or several
	Const                string           `json:"const,omitempty"`
	Format               string           `json:"format,omitempty"`
	Pattern              string           `json:"pattern,omitempty"`
	Minimum              *float64         `json:"minimum,omitempty"`
	Maximum              *float64         `json:"maximum,omitempty"`
	Required             []string         `json:"required,omitempty"`
	Properties           map[string]*node `json:"properties,omitempty"`
	AdditionalProperties *node            `json:"additionalProperties,omitempty"`
	Items                *node            `json:"items,omitempty"`
	AnyOf                []*node          `json:"anyOf,omitempty"`
	Defs                 map[string]*node `json:"$defs,omitempty"`
}

func ref(name string) *node { return &node{Ref: "#/$defs/" + name} }

func text(says string) *node { return &node{Type: "string", Description: says} }

func (d *description) eventGridEvent() *node {
	return object("The event in the Event Grid schema; a request that is not a CloudEvent carries an array of them.",
		[]string{"topic", "subject", "eventType", "eventTime", "id", "dataVersion", "metadataVersion", "data"}, map[string]*node{
			"topic":           text("Resource id of the workspace."),
			"subject":         d.subject(),
			"eventType":       {Type: "string", Const: d.eventType},
			"eventTime":       {Type: "string", Format: "date-time", Description: "When it happened, in UTC."},
			"id":              text("Made of what happened: the same happening has the same id."),
			"dataVersion":     text(`"2", or "" when the workspace spells payloads as documented.`),
			"metadataVersion": {Type: "string", Const: "1"},
			"data":            ref("data"),
		})
}

func (d *description) cloudEvent() *node {
	return object("The event as a CloudEvent 1.0.",
		[]string{"specversion", "type", "source", "subject", "id", "time", "sequence", "data"}, map[string]*node{
			"specversion": {Type: "string", Const: "1.0"},
			"type":        {Type: "string", Const: d.eventType},
			"source":      text("Resource id of the workspace."),
			"subject":     d.subject(),
			"id":          text("Made of what happened: the same happening has the same id."),
			"time":        {Type: "string", Format: "date-time", Description: "When it happened, in UTC."},
			"dataschema":  text(`The data version, "#2", when there is one.`),
			"sequence":    {Type: "string", Pattern: stampPattern, Description: "The same as sequencer in data."},
			"data":        ref("data"),
		})
}

func (d *description) subject() *node {
	return &node{Type: "string", Pattern: d.pattern, Description: d.form}
}

func (d *description) data(casing Casing) *node {
	documented := casing == Documented
	var required []string
	properties := map[string]*node{}
	for _, m := range d.members {
		name := m.name
		if documented {
			name = strings.ToUpper(name[:1]) + name[1:]
		}
		if m.kind == detailsMember || m.kind == verdictMember {
			name = m.name
		} else {
			required = append(required, name)
		}
		properties[name] = m.node(documented)
	}
	for _, m := range stampMembers {
		required = append(required, m.name)
		properties[m.name] = m.node(false)
	}
	says := "The payload."
	if documented {
		says = "The payload of a workspace that spells it as documented."
	}
	return object(says, required, properties)
}

func object(says string, required []string, properties map[string]*node) *node {
	return &node{Type: "object", Description: says, Required: required, Properties: properties}
}

// memberKind is the JSON type of a property.
type memberKind uint8

const (
	textMember    memberKind = iota
	versionMember            // text; an integer where the documented casing makes it one
	tableMember              // an object of strings
	shareMember              // a number from 0 to 1
	instantMember            // date-time
	stampMember              // StampSize hexadecimal digits
	verdictMember            // a boolean; may be absent, keeps its spelling
	detailsMember            // columns that moved; may be absent, keeps its spelling
)

// stampPattern is what is written into the room that Encode leaves.
// Source: spec/workspace.md section 3.2.
const stampPattern = "^[0-9a-f]{32}$"

type member struct {
	name string
	kind memberKind
	says string
}

func (m member) node(documented bool) *node {
	n := text(m.says)
	switch m.kind {
	case versionMember:
		if documented {
			n.Type = []string{"string", "integer"}
		}
	case tableMember:
		n.Type, n.AdditionalProperties = "object", &node{Type: "string"}
	case shareMember:
		n.Type, n.Minimum, n.Maximum = "number", new(0.0), new(1.0)
	case instantMember:
		n.Format = "date-time"
	case stampMember:
		n.Pattern = stampPattern
	case verdictMember:
		n.Type = "boolean"
	case detailsMember:
		n.Type = "array"
		n.Items = object("One column.", []string{"column", "type", "drifted", "distance", "change"}, map[string]*node{
			"column":       text("Name of the column."),
			"type":         text("numeric or categorical."),
			"drifted":      {Type: "boolean", Description: "Whether its own test says that it drifted."},
			"contribution": {Type: "number", Minimum: new(0.0), Maximum: new(1.0), Description: "Its share in what tells the datasets apart, where a classifier told it."},
			"distance":     {Type: "number", Minimum: new(0.0), Maximum: new(1.0), Description: "Jensen-Shannon distance of its values, base 2."},
			"change":       text("What moved, for people."),
		})
	}
	return n
}

// description is what there is to say of an event type.
type description struct {
	eventType string
	title     string
	says      string // when it is raised
	form      string // of the subject
	pattern   string // of the subject
	capitals  bool   // whether the documented casing capitalises its payload
	members   []member
}

func describe(eventType string) *description {
	for i := range descriptions {
		if strings.EqualFold(descriptions[i].eventType, eventType) {
			return &descriptions[i]
		}
	}
	return nil
}

// stampMembers end every payload.
var stampMembers = []member{
	{"etag", stampMember, "Entity tag of the object after the change, as in its ETag header without quotes."},
	{"sequencer", stampMember, "Compared as text: of two events of one workspace, the greater one happened later."},
}

var runMembers = []member{
	{"experimentId", textMember, "Id of the experiment, a GUID."},
	{"experimentName", textMember, "Name of the experiment."},
	{"runId", textMember, "Id of the run."},
	{"runType", textMember, "Kind of the run, for example azureml.scriptrun; may be empty."},
	{"runTags", tableMember, "Tags of the run."},
	{"runProperties", tableMember, "Properties of the run; values are strings, also numbers."},
}

var modelMembers = []member{
	{"modelName", textMember, "Name of the model."},
	{"modelVersion", versionMember, "Version of the model; a number only where the workspace spells payloads as documented."},
	{"modelTags", tableMember, "Tags of the model version."},
	{"modelProperties", tableMember, "Properties of the model version."},
}

var serviceMembers = []member{
	{"serviceName", textMember, "Name of the online endpoint."},
	{"serviceComputeType", textMember, "What it runs on, for example ACI or AKS."},
	{"modelIds", textMember, "What was deployed: name:version, separated by commas without spaces."},
	{"serviceTags", tableMember, "Tags of the online endpoint."},
	{"serviceProperties", tableMember, "Properties of the online endpoint."},
}

var driftMembers = []member{
	{"dataDriftId", textMember, "Id of the drift monitor, a GUID."},
	{"dataDriftName", textMember, "Name of the drift monitor."},
	{"runId", textMember, "Id of the drift run."},
	{"baseDatasetId", textMember, "Id of the dataset that was compared with."},
	{"targetDatasetId", textMember, "Id of the dataset that was looked at."},
	{"driftCoefficient", shareMember, "How far apart they are: 0 is not at all, 1 is altogether."},
	{"startTime", instantMember, "When the target window begins."},
	{"endTime", instantMember, "When the target window has ended."},
	{"driftDetected", verdictMember, "Whether the coefficient is above the threshold of the monitor; may be absent."},
	{"driftDetails", detailsMember, "The columns that moved most, the first one most; may be absent."},
}

const (
	runForm        = "experiments/{experimentId}/runs/{runId}"
	runPattern     = "^experiments/.+/runs/.+$"
	modelForm      = "models/{modelName}:{modelVersion}"
	modelPattern   = "^models/.+:.+$"
	serviceForm    = "endpoints/{serviceName}"
	servicePattern = "^endpoints/.+$"
	driftForm      = "datadrift/{dataDriftId}/run/{runId}"
	driftPattern   = "^datadrift/.+/run/.+$"
)

// descriptions are in the order of AllTypes. Source: spec/events.md sections 4.2 and
// 4.3; spec/management.md section 9.
var descriptions = []description{
	{
		ModelRegisteredType, "Model registered", "A model or a new version of a model was registered.",
		modelForm, modelPattern, true, modelMembers,
	},
	{
		ModelDeployedType, "Model deployed", "One or more models were deployed to an online endpoint with success.",
		serviceForm, servicePattern, true, serviceMembers,
	},
	{
		RunCompletedType, "Run completed", "A training run completed with success.",
		runForm, runPattern, false, runMembers,
	},
	{
		RunStatusChangedType, "Run status changed", "A run came to a status that the workspace reports: Failed, unless it is set otherwise.",
		runForm, runPattern, false, slices.Concat(runMembers, []member{
			{"runStatus", textMember, "The status it came to, for example Failed; compare it ignoring case."},
		}),
	},
	{
		DatasetDriftDetectedType, "Dataset drift detected",
		"A drift monitor has compared two datasets; where the workspace is set so, only if it found drift.",
		driftForm, driftPattern, true, driftMembers,
	},
	{
		DeploymentFailedType, "Deployment failed", "A deployment to an online endpoint failed." + switchedOn,
		serviceForm, servicePattern, true, serviceMembers,
	},
	{
		ModelAliasSetType, "Model alias set", "A model version got an alias." + switchedOn,
		modelForm, modelPattern, true, slices.Concat(modelMembers, []member{{"alias", textMember, "The alias that it got."}}),
	},
	{
		ModelAliasRemovedType, "Model alias removed", "A model version has an alias no more, also because another version got it." + switchedOn,
		modelForm, modelPattern, true, slices.Concat(modelMembers, []member{{"alias", textMember, "The alias that it had."}}),
	},
	{
		ModelStageChangedType, "Model stage changed", "A model version came to another stage." + switchedOn,
		modelForm, modelPattern, true, slices.Concat(modelMembers, []member{
			{"stage", textMember, "The stage it came to, for example Production; None for no stage."},
			{"previousStage", textMember, "The stage it was in; None for no stage."},
		}),
	},
	{
		ModelDeletedType, "Model deleted", "A model version was deleted." + switchedOn,
		modelForm, modelPattern, true, modelMembers,
	},
	{
		DriftClearedType, "Drift cleared", "A drift monitor found no drift, and its comparison before did." + switchedOn,
		driftForm, driftPattern, true, driftMembers,
	},
	{
		RunNotRespondingType, "Run not responding", "A run gives no sign of life." + switchedOn,
		runForm, runPattern, false, runMembers,
	},
}

// switchedOn ends what is said of the event types beyond Azure's.
const switchedOn = " Raised where extraEvents of the workspace names it."
