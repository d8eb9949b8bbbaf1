{{/* Names */}}
{{- define "kvist.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52 characters: Kubernetes appends 11 to the name of a StatefulSet for a label of at most 63. */}}
{{- define "kvist.fullname" -}}
{{- $name := include "kvist.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "kvist.headless" -}}{{ include "kvist.fullname" . | trunc 54 }}-nodes{{- end -}}
{{- define "kvist.etcdName" -}}{{ include "kvist.fullname" . | trunc 47 | trimSuffix "-" }}-etcd{{- end -}}
{{- define "kvist.domain" -}}{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}{{- end -}}
{{- define "kvist.seedsHost" -}}{{ include "kvist.fullname" . }}.{{ include "kvist.domain" . }}{{- end -}}
{{- define "kvist.seeds" -}}{{ include "kvist.seedsHost" . }}:{{ int .Values.ports.data }}{{- end -}}
{{- define "kvist.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kvist.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}
{{- define "kvist.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Labels. Argument: (list $ component) */}}
{{- define "kvist.selector" -}}
app.kubernetes.io/name: {{ include "kvist.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}
{{/* Those of pods hold no version of the chart: a new chart alone must not restart nodes, which would empty them. */}}
{{- define "kvist.podLabels" -}}
{{ include "kvist.selector" . }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}
{{- define "kvist.labels" -}}
{{- $ := index . 0 -}}
{{ include "kvist.selector" . }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name, labels and annotations of an object. Argument: (list $ component name [annotations [labels]]) */}}
{{- define "kvist.metadata" -}}
{{- $ := index . 0 -}}
name: {{ index . 2 }}
namespace: {{ $.Release.Namespace }}
labels:
  {{- include "kvist.labels" . | nindent 2 }}
  {{- if gt (len .) 4 }}{{ with index . 4 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}{{ end }}
{{- $own := dict -}}
{{- if gt (len .) 3 }}{{ $own = index . 3 | default dict }}{{ end }}
{{- with merge (dict) $own $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A size as kvistd or Kubernetes write it, in bytes. What is no size has been refused by values.schema.json. */}}
{{- define "kvist.bytes" -}}
{{- $text := include "kvist.text" . -}}
{{- $units := dict "" 1 "B" 1 "k" 1000 "kB" 1000 "M" 1000000 "MB" 1000000 "G" 1000000000 "GB" 1000000000 "T" 1000000000000 "TB" 1000000000000 "Ki" 1024 "KiB" 1024 "Mi" 1048576 "MiB" 1048576 "Gi" 1073741824 "GiB" 1073741824 "Ti" 1099511627776 "TiB" 1099511627776 -}}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexReplaceAll "^[0-9.]+" $text "")) | int64 -}}
{{- end -}}
{{/* The same the other way, rounded up. */}}
{{- define "kvist.mebibytes" -}}{{ div (add (int64 .) 1048575) 1048576 }}{{- end -}}

{{/* A duration such as 1m30s, in whole seconds, rounded up. */}}
{{- define "kvist.seconds" -}}
{{- $units := dict "h" 3600000 "m" 60000 "s" 1000 "ms" 1 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9.]+(ms|h|m|s)" . -1 -}}
{{- $sum = addf $sum (mulf (regexFind "^[0-9.]+" . | float64) (get $units (regexReplaceAll "^[0-9.]+" . ""))) -}}
{{- end -}}
{{- divf $sum 1000.0 | ceil | int64 -}}
{{- end -}}

{{/* A value as a flag has it: Helm reads whole numbers as floating ones, and would write 1e+06. */}}
{{- define "kvist.text" -}}
{{- if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{ int64 . }}{{- else -}}{{ . }}{{- end -}}
{{- else -}}{{ . }}{{- end -}}
{{- end -}}

{{/* Of a StatefulSet. */}}
{{- define "kvist.replicas" -}}
{{- if kindIs "invalid" .Values.replicas -}}3{{- else -}}{{ int .Values.replicas }}{{- end -}}
{{- end -}}

{{/* What a node's memory is made of; README.md, Memory, says where each figure comes from. */}}
{{- define "kvist.shmBytes" -}}
{{- if .Values.shm.size -}}{{ include "kvist.bytes" .Values.shm.size }}
{{- else if and .Values.gpu.enabled .Values.gpu.nccl (not .Values.gpu.socket.enabled) -}}1073741824
{{- else -}}0{{- end -}}
{{- end -}}
{{- define "kvist.overheadBytes" -}}
{{- $tiers := include "kvist.bytes" .Values.capacity | int64 -}}
{{- $pages := div $tiers 512 -}}
{{- $device := 0 -}}
{{- if .Values.gpu.enabled -}}
{{- $tiers = add $tiers (include "kvist.bytes" .Values.gpu.capacity | int64) -}}
{{- $device = add 1073741824 (include "kvist.bytes" .Values.gpu.staging | int64) -}}
{{- end -}}
{{- $index := mul 400 (div $tiers (include "kvist.bytes" .Values.memory.blockSize | int64)) -}}
{{- add 536870912 268435456 $pages $index $device (include "kvist.shmBytes" . | int64) (include "kvist.bytes" .Values.memory.extra | int64) -}}
{{- end -}}
{{- define "kvist.memoryBytes" -}}
{{- add (include "kvist.bytes" .Values.capacity | int64) (include "kvist.overheadBytes" . | int64) -}}
{{- end -}}

{{/* Hand-over, five seconds to leave the cluster in (services/node/node.cc), open calls, margin. */}}
{{- define "kvist.graceSeconds" -}}
{{- with .Values.drain -}}
{{- add 5 (include "kvist.seconds" .deadline) (include "kvist.seconds" .calls) (include "kvist.seconds" .margin) -}}
{{- end -}}
{{- end -}}

{{- define "kvist.etcdEndpoints" -}}
{{- if .Values.etcd.enabled -}}{{ include "kvist.etcdName" . }}.{{ include "kvist.domain" . }}:2379
{{- else -}}{{ join "," .Values.etcd.endpoints }}{{- end -}}
{{- end -}}

{{/* A node without etcd is the one member of a static file: workers that ask it for the members need an answer. */}}
{{- define "kvist.alone" -}}{{ if not (include "kvist.etcdEndpoints" .) }}true{{ end }}{{- end -}}
{{- define "kvist.clusterFile" -}}
{{- $name := printf "%s-0" (include "kvist.fullname" .) -}}
{{- $address := printf "%s.%s.%s:%d" $name (include "kvist.headless" .) (include "kvist.domain" .) (int .Values.ports.data) -}}
{{- dict "view" 1 "nodes" (list (dict "id" $name "address" $address "capacity" .Values.capacity)) | toJson -}}
{{- end -}}
