package arm

import (
	"github.com/carillon-events/carillon/internal/manage"
	"github.com/carillon-events/carillon/internal/resource"
)

// attributeBody is a delivery attribute on the wire.
// Source: spec/management.md section 5.6.
type attributeBody struct {
	Name       string `json:"name"`
	Type       string `json:"type"`
	Properties any    `json:"properties"`
}

type staticAttribute struct {
	Value    *string `json:"value"` // null: it is secret
	IsSecret bool    `json:"isSecret"`
}

type dynamicAttribute struct {
	SourceField string `json:"sourceField"`
}

// maskedAttributes shows delivery attributes without the values of secret ones, nil
// where there are none.
func maskedAttributes(attributes []resource.DeliveryAttribute) []attributeBody {
	var out []attributeBody
	for _, a := range attributes {
		b := attributeBody{a.Name, a.Type, dynamicAttribute{a.SourceField}}
		if a.Type == resource.AttributeStatic {
			static := staticAttribute{IsSecret: a.Secret()}
			if !static.IsSecret {
				static.Value = &a.Value
			}
			b.Properties = static
		}
		out = append(out, b)
	}
	return out
}

// attributeChanges reads the delivery attributes in the properties of a destination.
func attributeChanges(p fields) []manage.AttributeChange {
	var out []manage.AttributeChange
	for _, f := range p.objects("deliveryAttributeMappings", "an object with name, type and properties") {
		properties := f.sub("properties")
		c := manage.AttributeChange{Name: f.str("name"), Type: f.str("type"), Value: properties.text("value"), SourceField: properties.str("sourceField")}
		if secret := value[bool](properties, "isSecret", "true or false"); secret != nil {
			c.IsSecret = *secret
		}
		out = append(out, c)
	}
	return out
}

// getDeliveryAttributes shows the delivery attributes with the values of secret ones.
func getDeliveryAttributes(a *api, r *request) (answer, error) {
	attributes, err := a.Plane.DeliveryAttributes(r.ctx, r.caller, r.id)
	if err != nil {
		return answer{}, err
	}
	out := []attributeBody{}
	for _, at := range attributes {
		b := attributeBody{at.Name, at.Type, dynamicAttribute{at.SourceField}}
		if at.Type == resource.AttributeStatic {
			b.Properties = staticAttribute{&at.Value, at.IsSecret}
		}
		out = append(out, b)
	}
	return whole(out), nil
}
