{{- define "ghostfleet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "ghostfleet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "ghostfleet.name" . }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "ghostfleet.operatorName" -}}
{{- printf "%s-operator" (include "ghostfleet.fullname" .) }}
{{- end }}

{{- define "ghostfleet.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ghostfleet.name" . }}-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ghostfleet.labels" -}}
{{- include "ghostfleet.labelsWith" (list . dict) }}
{{- end }}

{{- /* Labels of an object that has more of them; takes (list root more). No key is there twice: what selects pods and says
where an object is from cannot be changed, more comes before commonLabels. */}}
{{- define "ghostfleet.labelsWith" -}}
{{- $root := index . 0 }}
{{- $labels := include "ghostfleet.selectorLabels" $root | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" $root.Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" $root.Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_") }}
{{- $partOf := dict "app.kubernetes.io/part-of" "ghostfleet" }}
{{- merge $labels (default dict (index . 1)) (default dict $root.Values.commonLabels) $partOf | toYaml }}
{{- end }}

{{- define "ghostfleet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "ghostfleet.operatorName" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "ghostfleet.keySecretName" -}}
{{- default (printf "%s-key" (include "ghostfleet.operatorName" .)) .Values.adminKey.existingSecret }}
{{- end }}

{{- /* An image reference; takes (list root image). */}}
{{- define "ghostfleet.image" -}}
{{- $root := index . 0 }}
{{- $image := index . 1 }}
{{- if $image.digest }}
{{- printf "%s@%s" $image.repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- /* What the operator may do in a namespace: exactly the calls it makes. */}}
{{- define "ghostfleet.operatorRules" -}}
- apiGroups: [ghostfleet.dev]
  resources: [simulatedmodelservers, latencyprofiles]
  verbs: [get, list, watch]
- apiGroups: [ghostfleet.dev]
  resources: [simulatedmodelservers/status, latencyprofiles/status]
  verbs: [patch]
{{- if .Values.clusterProfiles }}
- apiGroups: [ghostfleet.dev]
  resources: [clusterlatencyprofiles]
  verbs: [get, list, watch]
- apiGroups: [ghostfleet.dev]
  resources: [clusterlatencyprofiles/status]
  verbs: [patch]
{{- end }}
# An owner reference that blocks the owner's deletion needs this where OwnerReferencesPermissionEnforcement is on.
- apiGroups: [ghostfleet.dev]
  resources: [simulatedmodelservers/finalizers]
  verbs: [update]
- apiGroups: [""]
  resources: [configmaps, services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
{{- if .Values.inferencePools }}
- apiGroups: [inference.networking.k8s.io]
  resources: [inferencepools]
  verbs: [get, list, watch, create, patch, delete]
{{- end }}
# Tokens of the admin API are only ever written.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create, patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}
