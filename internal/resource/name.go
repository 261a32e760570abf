package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/carillon-events/carillon/event"
	"github.com/carillon-events/carillon/internal/fault"
)

// NameRule says which names a kind of resource may have: letters and digits of
// ASCII and the characters of Also.
// Source: spec/management.md section 6.
type NameRule struct {
	Noun     string
	Min, Max int
	Also     string
}

// The name rules.
var (
	TopicName             = NameRule{"topic", 3, 50, "-"}
	DomainName            = NameRule{"domain", 3, 50, "-"}
	DomainTopicName       = NameRule{"domain topic", event.MinDomainTopic, event.MaxDomainTopic, "-"}
	SystemTopicName       = NameRule{"system topic", 3, 128, "-"}
	EventSubscriptionName = NameRule{"event subscription", 3, 64, "-"}
	ResourceGroupName     = NameRule{"resource group", 1, 90, "-_()."}
	WorkspaceName         = NameRule{"workspace", 3, 33, "-_"}
	ConnectionName        = NameRule{"connection", 1, 90, "-_."}
)

// Check returns what is wrong with name, nil when it is good.
func (r NameRule) Check(name string) *fault.Error {
	bad := strings.IndexFunc(name, func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune(r.Also, c)
	})
	if bad < 0 && len(name) >= r.Min && len(name) <= r.Max && name != "." && name != ".." && !(r.Noun == "resource group" && strings.HasSuffix(name, ".")) {
		return nil
	}
	also := make([]string, 0, len(r.Also))
	for _, c := range r.Also {
		also = append(also, fmt.Sprintf("'%c'", c))
	}
	message := fmt.Sprintf("The %s name '%s' is not valid: use %d to %d letters, digits or %s", r.Noun, shorten(name), r.Min, r.Max, strings.Join(also, " "))
	switch {
	case r.Noun != "resource group" && strings.Contains(r.Also, "."):
		message += ", not '.' or '..' alone"
	case r.Noun == "resource group":
		message += ", not ending with '.'"
	}
	return &fault.Error{Kind: fault.Invalid, Code: "InvalidResourceName", Message: message + ".", Target: "name"}
}

// shorten keeps a refused text readable in a message.
func shorten(text string) string {
	if r := []rune(text); len(r) > 80 {
		return string(r[:77]) + "..."
	}
	return text
}

// NormalizeLocation removes spaces and case from a region's name, so that "West
// US 2" is westus2. Source: spec/management.md section 6, row "location".
func NormalizeLocation(location string) string {
	return strings.ToLower(strings.Join(strings.Fields(location), ""))
}

// Limits of tags. Source: spec/management.md section 6, row "tags".
const (
	maxTags        = 50
	maxTagKeyLen   = 512
	maxTagValueLen = 256
)

// CheckTags returns what is wrong with a tag map, in key order.
func CheckTags(tags map[string]string) []*fault.Error {
	var problems []*fault.Error
	if len(tags) > maxTags {
		problems = append(problems, fault.Field("tags", "A resource may have %d tags, this one has %d.", maxTags, len(tags)))
	}
	keys := make([]string, 0, len(tags))
	for key := range tags {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	seen := map[string]string{}
	for _, key := range keys {
		target := "tags['" + shorten(key) + "']"
		if n := len([]rune(key)); n == 0 || n > maxTagKeyLen {
			problems = append(problems, fault.Field(target, "A tag's name must have 1 to %d characters, this one has %d.", maxTagKeyLen, n))
		}
		if n := len([]rune(tags[key])); n > maxTagValueLen {
			problems = append(problems, fault.Field(target, "A tag's value may have %d characters, this one has %d.", maxTagValueLen, n))
		}
		if other, dup := seen[strings.ToLower(key)]; dup {
			problems = append(problems, fault.Field(target, "The tags '%s' and '%s' differ in case only; keep one of them.", shorten(other), shorten(key)))
		}
		seen[strings.ToLower(key)] = key
	}
	return problems
}

// Limits of labels. Event Grid documents none; these keep a record bounded.
const (
	maxLabels   = 100
	maxLabelLen = 512
)

// CheckLabels returns what is wrong with an event subscription's labels.
func CheckLabels(target string, labels []string) []*fault.Error {
	var problems []*fault.Error
	if len(labels) > maxLabels {
		problems = append(problems, fault.Field(target, "An event subscription may have %d labels, this one has %d.", maxLabels, len(labels)))
	}
	for i, label := range labels {
		if n := len([]rune(label)); n == 0 || n > maxLabelLen {
			problems = append(problems, fault.Field(fmt.Sprintf("%s[%d]", target, i), "A label must have 1 to %d characters, this one has %d.", maxLabelLen, n))
		}
	}
	return problems
}
