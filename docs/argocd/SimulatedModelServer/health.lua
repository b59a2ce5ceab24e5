-- Health of a SimulatedModelServer, as kstatus reads the same status.
local function find(kind)
  for _, condition in ipairs(obj.status.conditions) do
    if condition.type == kind then
      return condition
    end
  end
  return {}
end

if obj.status == nil or obj.status.conditions == nil then
  return { status = "Progressing", message = "Waiting for the operator" }
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the operator to see the newest spec" }
end
local stalled = find("Stalled")
if stalled.status == "True" then
  return { status = "Degraded", message = stalled.message }
end
local reconciling = find("Reconciling")
if reconciling.status == "True" then
  return { status = "Progressing", message = reconciling.message }
end
local ready = find("Ready")
if ready.status ~= "True" then
  return { status = "Progressing", message = ready.message or "Waiting for the operator" }
end
if ready.reason == "Suspended" then
  return { status = "Suspended", message = ready.message }
end
return { status = "Healthy", message = ready.message }
